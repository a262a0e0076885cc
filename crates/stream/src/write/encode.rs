//! Encodes the entries pending in the tail as frames.

use std::io::IoSlice;
use std::ops::Range;

use stratawal_frame::{DataFrame, FramePosition, encode_data, encode_data_head};
use stratawal_index::IndexPoint;
use stratawal_segment::SegmentWriter;

use crate::write::buffer_pool::push_exact;

/// Frames to be written with one call. Small frames are encoded next to each other. The entries of
/// large frames are written from where they are, without copying. The memory is kept for later
/// frames.
#[derive(Debug, Default)]
pub(crate) struct FrameEncoder {
    points: Vec<IndexPoint>,
    encoded: Vec<u8>,
    pieces: Vec<Piece>,
    len: u64,
}

/// A range of the encoded bytes, or of the entries' bytes.
#[derive(Debug)]
enum Piece {
    Encoded(Range<usize>),
    Data(Range<usize>),
}

/// The entries of a frame of at least this length are not copied into the encoder.
const BORROWED_LEN_MIN: usize = 8 << 10;

impl FrameEncoder {
    pub(super) fn clear(&mut self) {
        self.points.clear();
        self.encoded.clear();
        self.pieces.clear();
        self.len = 0;
    }

    /// The number of bytes of memory that the encoder holds.
    pub(super) fn capacity(&self) -> usize {
        let Self { points, encoded, pieces, len: _ } = self;
        encoded.capacity() + points.capacity() * size_of::<IndexPoint>() + pieces.capacity() * size_of::<Piece>()
    }

    /// The length of all frames together.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// An index point for each frame.
    pub(super) fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// Encodes a frame and returns its length. The bytes of its entries begin at `data_start` among
    /// those of all frames.
    pub(super) fn push(&mut self, position: &FramePosition, frame: &DataFrame<'_>, data_start: usize) -> u64 {
        let before = self.len;
        let from = self.encoded.len();
        let point = IndexPoint { seq: frame.first_seq.0, offset: position.offset.0, timestamp: frame.timestamp };
        push_exact(&mut self.points, point);
        if frame.data.len() < BORROWED_LEN_MIN {
            encode_data(&mut self.encoded, position, frame);
            self.push_encoded(from);
        } else {
            let zeros = encode_data_head(&mut self.encoded, position, frame);
            self.push_encoded(from);
            self.pieces.push(Piece::Data(data_start..data_start + frame.data.len()));
            self.len += frame.data.len() as u64;
            let from = self.encoded.len();
            self.encoded.resize(from + zeros, 0);
            self.push_encoded(from);
        }
        self.len - before
    }

    fn push_encoded(&mut self, from: usize) {
        let to = self.encoded.len();
        self.len += (to - from) as u64;
        match self.pieces.last_mut() {
            Some(Piece::Encoded(range)) => range.end = to,
            _ => push_exact(&mut self.pieces, Piece::Encoded(from..to)),
        }
    }

    /// Writes the frames with one call. The bytes of their entries are in `data`.
    pub(super) fn write(&self, data: &[u8], writer: &mut SegmentWriter) -> stratawal_segment::Result<()> {
        match &self.pieces[..] {
            [Piece::Encoded(range)] => writer.append(&self.encoded[range.clone()]),
            pieces => {
                let slice = |piece: &Piece| match piece {
                    Piece::Encoded(range) => IoSlice::new(&self.encoded[range.clone()]),
                    Piece::Data(range) => IoSlice::new(&data[range.clone()]),
                };
                // A short list of pieces needs no allocation.
                let mut few = [IoSlice::new(&[]); 8];
                match few.get_mut(..pieces.len()) {
                    Some(few) => {
                        few.iter_mut().zip(pieces).for_each(|(to, piece)| *to = slice(piece));
                        writer.append_pieces(few, self.len)
                    }
                    None => writer.append_pieces(&pieces.iter().map(slice).collect::<Vec<_>>(), self.len),
                }
            }
        }
    }
}
