//! `bench nodes`: two servers over one PostgreSQL.

use std::process::ExitCode;

use super::compare::{GrowthArgs, Pair, Words, tell};
use crate::cli::bench::lifecycle::stage::{WHOLE, Wanted};
use crate::cli::exit::Usage;
use crate::cli::print::Out;

/// Two servers over one PostgreSQL against one.
#[derive(Debug, Clone, clap::Args)]
pub struct NodesArgs {
    #[command(flatten)]
    growth: GrowthArgs,
}

/// Runs `ringback bench nodes`.
pub async fn nodes(args: NodesArgs, out: Out) -> anyhow::Result<ExitCode> {
    if !args.growth.store.as_deref().is_some_and(|url| url.starts_with("postgres")) {
        return Err(Usage("this needs a --store that two servers can share: PostgreSQL".to_owned()).into());
    }
    let mut pair = Pair::set(&args.growth, WHOLE, Wanted { nodes: 2, ..WHOLE }).await?;
    let seen = pair.jobs(&args.growth).await?;
    pair.strike().await?;
    tell(&Words { what: "two nodes", base: "one node", other: "two nodes", first: None }, seen, out)
}
