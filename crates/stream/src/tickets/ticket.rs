//! The receipt for an append that does not wait.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::queue::{COMPLETE, TicketQueue};
use crate::error::Result;

/// The receipt for entries that were submitted: their seqs, and later the outcome.
///
/// A ticket is complete once its entries have the durability of the handle that submitted them, or
/// once an append would have failed. The outcome is then what the append would have returned: the
/// seqs, or the error. Tickets of one stream complete in the order of their seqs, also if they wait
/// for different durabilities.
///
/// The outcome can be had in one of three ways: [`wait`](Self::wait) blocks the thread;
/// [`on_done`](Self::on_done) has a function called; and a ticket is a [`Future`], which needs no
/// particular runtime. Dropping a ticket cancels nothing: the entries are appended, and only the
/// outcome is lost.
///
/// A ticket does not keep the log open or locked. When the log is closed, every ticket completes
/// before the close returns.
#[must_use = "dropping a ticket cancels nothing, but loses the outcome of the append"]
pub struct Ticket {
    queue: Arc<TicketQueue>,
    number: u64,
    seqs: Range<u64>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("stream", &self.queue.stream()).field("seqs", &self.seqs).finish_non_exhaustive()
    }
}

impl Ticket {
    pub(super) const fn new(queue: Arc<TicketQueue>, number: u64, seqs: Range<u64>) -> Self {
        Self { queue, number, seqs }
    }

    /// A ticket for which nothing has to be waited.
    pub(crate) const fn complete(queue: Arc<TicketQueue>, seqs: Range<u64>) -> Self {
        Self { queue, number: COMPLETE, seqs }
    }

    /// The seqs of the entries. They are final: no other entries get them, unless the append fails
    /// or its entries are dropped.
    #[must_use]
    pub fn seqs(&self) -> Range<u64> {
        self.seqs.clone()
    }

    /// Blocks the thread until the ticket is complete. Returns the seqs.
    ///
    /// # Errors
    /// The errors of an append: [`Poisoned`](crate::ErrorKind::Poisoned) if a write or sync failed,
    /// so that the entries may or may not exist once the stream is recovered;
    /// [`Missing`](crate::ErrorKind::Missing) if the stream was deleted;
    /// [`Closed`](crate::ErrorKind::Closed) if the log was closed before the entries were durable;
    /// [`Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn wait(self) -> Result<Range<u64>> {
        let waker = waker_of_this_thread();
        loop {
            match self.poll_with(&waker) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// Blocks the thread until the ticket is complete, but at most for `timeout`. Returns `None` if
    /// it is not complete by then; the ticket can be waited for again. With [`Duration::ZERO`],
    /// only finds out whether it is complete.
    ///
    /// # Errors
    /// Same as for [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Range<u64>>> {
        let began = Instant::now();
        let waker = waker_of_this_thread();
        loop {
            match self.poll_with(&waker) {
                Poll::Ready(outcome) => return Some(outcome),
                Poll::Pending => {
                    let left = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero())?;
                    thread::park_timeout(left);
                }
            }
        }
    }

    /// Has `callback` called with the outcome once the ticket is complete: in a thread of the log,
    /// which calls one callback at a time. Those of one stream are called in the order of their
    /// seqs. A callback for a ticket that is already complete is called after those that are due.
    ///
    /// A callback that takes long delays other callbacks, but no sync and no other way to get an
    /// outcome. Its ticket counts as in flight until it returns, so many slow callbacks stop
    /// further submits. In a callback, a submit refuses where it would wait otherwise. If a
    /// callback panics, the others are still called. Closing the log waits until every callback has
    /// returned, unless a callback closes it; after that, this calls `callback` itself. In a forked
    /// child, no callback is called.
    pub fn on_done(mut self, callback: impl FnOnce(Result<Range<u64>>) + Send + 'static) {
        if self.queue.check_process().is_err() {
            return;
        }
        let number = std::mem::replace(&mut self.number, COMPLETE);
        self.queue.call_when_done(number, self.seqs.clone(), Box::new(callback));
    }

    fn poll_with(&self, waker: &Waker) -> Poll<Result<Range<u64>>> {
        self.queue.check_process()?;
        self.queue.poll(self.number, waker).map_ok(|()| self.seqs.clone())
    }
}

/// Completes with the result that [`wait`](Ticket::wait) returns. Polling again returns it again.
impl Future for Ticket {
    type Output = Result<Range<u64>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(context.waker())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.forget(self.number);
    }
}

fn waker_of_this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Wakes a thread that waits for a ticket.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
