//! Options that say nothing without another one.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// A command, its option, and the one that it needs. Not clap's `requires`, which counts the environment as well: there
/// they may be meant for another command, and are left out where the other one is missing.
const BESIDE: [(&str, &str, &str); 7] = [
    ("listen", "account", "events"),
    ("listen", "public_url", "events"),
    ("submit", "callback_secret", "callback_url"),
    ("submit", "callback_events", "callback_url"),
    ("run", "callback_secret", "callback_url"),
    ("run", "callback_events", "callback_url"),
    ("run", "result_type", "result_file"),
];

/// Refuses such an option on the command line without the one that it needs.
pub fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    for (_, option, needed) in BESIDE.iter().filter(|(of, ..)| *of == name) {
        let typed = given.value_source(option) == Some(ValueSource::CommandLine);
        if typed && given.value_source(needed).is_none() {
            let text = format!("--{option} needs --{needed}").replace('_', "-");
            return Err(command.error(ErrorKind::MissingRequiredArgument, text));
        }
    }
    Ok(())
}
