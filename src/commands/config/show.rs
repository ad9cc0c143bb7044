//! `admiral config show`: prints the effective configuration.

use admiral_config::show;
use admiral_contract::Notify;
use clap::Args;

use crate::commands::ranks::{CommandError, print_json};

use super::read::{ConfigArguments, read, refuse};

/// The arguments of `admiral config show`.
#[derive(Args)]
pub(in crate::commands) struct ShowArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print JSON: the configuration, and the values derived from it under "derived"
    #[arg(long)]
    json: bool,
    /// Also print "secrets", the values that are hidden in the configuration, for the launcher
    #[arg(long, hide = true, requires = "json")]
    secrets: bool,
}

/// Prints the configuration and the values derived from it.
///
/// # Errors
/// When the configuration cannot be read or has mistakes, with the exit code.
pub(super) fn run(arguments: &ShowArguments) -> Result<(), CommandError> {
    let config = read(&arguments.config.config, &arguments.config.overrides)?;
    if arguments.json {
        let derived = config.facts().map_err(refuse)?;
        let mut shown = serde_json::json!({ "config": config, "derived": derived });
        if arguments.secrets {
            let notify = config.launch.notify.as_ref().map(|notify| match notify {
                Notify::Webhook(url) => serde_json::json!(url),
                Notify::Command(words) => serde_json::json!(words),
            });
            shown["secrets"] = serde_json::json!({ "notify": notify });
        }
        return print_json(&shown);
    }
    print!("{}", show(&config, &config.derived().map_err(refuse)?));
    Ok(())
}
