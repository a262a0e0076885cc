//! The `stratawal` command: appends lines to the streams of a log, reads them back and follows
//! them; lists, verifies, truncates and deletes streams.
//!
//! It is for people and shell scripts; programs use the library. It does not know the format, and
//! uses only the facade's public interface.
#![forbid(unsafe_code)]

mod advice;
mod append;
mod around_damage;
mod bounds;
mod cat;
mod failure;
mod follow;
mod follow_output;
mod form;
mod framing;
mod generate;
mod human;
mod info;
mod input;
mod inspect;
mod json;
mod name;
mod near;
mod plan;
mod repair;
mod salvage;
mod selection;
mod signals;
mod streams;
mod svg;
mod table;
mod terminal;
mod truncate;
mod verify;
mod writer;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::{Failure, USAGE};
use crate::terminal::Output;

const EXIT_CODES: &str = "Exit codes: 0 success; 1 damage, or for verify and info a copy; 2 wrong usage, or --yes is missing; 3 the command could not run \
     (log or stream missing, log locked, a copy, I/O error, disk full); 130 after SIGINT, 143 after SIGTERM.";

const ERRORS: &str = r#"With --json, an error is one line on standard error:
{"error":{"kind":"locked","message":"…","stream":null,"segment":null,"offset":null}}"#;

/// Returns the text below the options in each command's help: its JSON, and how it ends.
fn about(json: &str) -> String {
    format!("{json}\n\n{ERRORS}\n\n{EXIT_CODES}")
}

/// Append to, read, list, verify and truncate a log of many named streams.
#[derive(Debug, Parser)]
#[command(name = "stratawal", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Append lines or other entries to a stream; create the log if it does not exist.
    #[command(after_help = about(append::JSON))]
    Append(append::Append),
    /// Print the entries of a stream, each followed by a newline.
    #[command(after_help = about(&cat::help()))]
    Cat(cat::Cat),
    /// Print the entries of streams, and then new ones as they are appended, until interrupted.
    #[command(after_help = about(&follow::help()))]
    Follow(follow::Follow),
    /// Show the log in one screen: its format, size, journal, reserve, writer and limits.
    #[command(after_help = about(info::JSON))]
    Info(info::Info),
    /// List the streams of a log.
    #[command(after_help = about(streams::JSON))]
    Streams(streams::Streams),
    /// Read everything and report damage, at most one finding per file; change nothing.
    #[command(after_help = about(verify::JSON))]
    Verify(verify::Verify),
    /// Drop the entries of a stream from its beginning or its end, for good.
    #[command(after_help = about(truncate::JSON))]
    Truncate(truncate::Truncate),
    /// Delete a stream with all its entries, for good.
    #[command(after_help = about(truncate::DELETE_JSON))]
    Delete(truncate::Delete),
    /// Show the files, frames and journal records of a log; change nothing.
    #[command(after_help = about(inspect::JSON))]
    Inspect(inspect::Inspect),
    /// Copy each run of intact entries of a damaged stream to a stream of its own.
    #[command(after_help = about(salvage::JSON))]
    Salvage(salvage::Salvage),
    /// Show what can be kept of a damaged log; with --apply, repair it. Or adopt a copy of a log.
    #[command(after_help = about(repair::JSON))]
    Repair(repair::Repair),
    /// Print the completions for a shell.
    #[command(after_help = generate::SHELLS)]
    Completions(generate::Completions),
    /// Print the manual, or write its pages into a directory.
    Man(generate::Man),
}

/// The arguments of every command.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The directory of the log.
    dir: PathBuf,
}

impl Common {
    /// Turns a result of the log into a result of the command, whose error has the path that it
    /// concerns and the remedy.
    fn result<T>(&self, result: stratawal::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| Failure::of_log(&self.dir, &error))
    }
}

fn main() -> ExitCode {
    signals::refuse_long_files();
    let json = std::env::args_os().any(|argument| argument == "--json");
    // The examples in the help texts are at most as wide as this.
    const HELP_WIDTH: usize = 120;
    let width = if Output::Out.is_terminal() { Output::Out.width().min(HELP_WIDTH) } else { HELP_WIDTH };
    let parsed = Arguments::command().term_width(width).try_get_matches();
    let result = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => run(arguments.command),
        Err(error) if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) => {
            let printed = print_help(&error).or_else(failure::output);
            printed.map(|()| failure::DONE)
        }
        Err(error) if error.kind() == ClapKind::DisplayHelpOnMissingArgumentOrSubcommand && !json => {
            // If this fails, the reader of the help text has closed the pipe.
            let _ = print_help(&error);
            Ok(USAGE)
        }
        Err(error) => Err(Failure::new(USAGE, "usage", mistake(&error))),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.code())
        }
    }
}

/// Prints a help text where clap would, but with colours only where all other output has them: clap
/// itself also obeys variables like `CI` and `CLICOLOR_FORCE`.
fn print_help(help: &clap::Error) -> io::Result<()> {
    let output = if help.use_stderr() { Output::Err } else { Output::Out };
    let text = help.render();
    let text = if output.has_colours() { text.ansi().to_string() } else { text.to_string() };
    match output {
        Output::Out => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
        Output::Err => io::stderr().write_all(text.as_bytes()),
    }
}

fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Append(append) => append.run(),
        Command::Cat(cat) => cat.run(),
        Command::Follow(follow) => follow.run(),
        Command::Info(info) => info.run(),
        Command::Streams(streams) => streams.run(),
        Command::Verify(verify) => verify.run(),
        Command::Truncate(truncate) => truncate.run(),
        Command::Delete(delete) => delete.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Salvage(salvage) => salvage.run(),
        Command::Repair(repair) => repair.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    }
}

/// Returns the mistake in the arguments, and the word that was probably meant, as one line.
fn mistake(error: &clap::Error) -> String {
    let text = error.to_string();
    // The first paragraph of clap's message states the mistake.
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let meant = kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(word.clone()),
        ContextValue::Strings(words) if !words.is_empty() => Some(words.join(" or ")),
        _ => None,
    });
    let is_unknown_option = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(argument)) if error.kind() == ClapKind::UnknownArgument && argument.starts_with('-')
    );
    let meant = match meant {
        Some(meant) => format!("; did you mean {meant}?"),
        None if is_unknown_option => {
            "; a name that begins with a dash comes after --, and after the options".to_owned()
        }
        None => String::new(),
    };
    format!("{}{meant}; see --help", lines.join(" ").trim_start_matches("error: "))
}
