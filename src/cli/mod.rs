//! The command line: what people and scripts type.

mod bench;
mod beside;
mod callback;
mod child;
mod dead_letters;
mod deliveries;
mod demo;
mod doctor;
mod endpoints;
mod events;
mod exec;
mod exit;
mod files;
mod jobs;
mod keyring;
mod keys;
mod lanes;
mod listen;
mod place;
mod print;
mod queues;
mod replay;
mod run;
mod said;
mod serve;
pub mod sign;
mod stop;
mod submit;
mod work;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::client::{Client, PageQuery};
use crate::clock::Clock;
use crate::store::{self, db::Target};
use crate::telemetry;
use exit::{Exit, Usage};
use print::Out;

const ABOUT_EXIT: &str = "Exit codes:\n  0  done\n  1  refused or failed\n  2  wrong usage\n  \
    3  cannot reach the service\n\nEvery flag can also be set as RINGBACK_<FLAG> in the environment, such as \
    RINGBACK_URL and RINGBACK_API_KEY.\nLogs go to standard error; RUST_LOG says how much.";

/// Submit a job, get 202 Accepted, receive the signed reply.
#[derive(Debug, Parser)]
#[command(name = "ringback", version, after_help = ABOUT_EXIT, propagate_version = true)]
struct Cli {
    /// Print JSON instead of words and tables.
    #[arg(long, env = "RINGBACK_JSON", global = true, hide_env = true)]
    json: bool,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    Demo(demo::DemoArgs),
    Dev(serve::DevArgs),
    Serve(serve::ServeArgs),
    Migrate(serve::MigrateArgs),
    Check(serve::CheckArgs),
    Keyring(keyring::KeyringArgs),
    RotateKeys(keyring::RotateArgs),
    Keys(keys::KeysArgs),
    Config(serve::ConfigArgs),
    Submit(Box<submit::SubmitArgs>),
    Jobs(jobs::JobsArgs),
    Events(events::EventsArgs),
    Deliveries(deliveries::DeliveriesArgs),
    Lanes(lanes::LanesArgs),
    Endpoints(endpoints::EndpointsArgs),
    Queues(queues::QueuesArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Work(work::WorkArgs),
    Run(Box<run::RunArgs>),
    Sign(sign::SignArgs),
    Verify(sign::VerifyArgs),
    Listen(listen::ListenArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Openapi(OpenapiArgs),
}

/// Print the OpenAPI document of a running service.
#[derive(Debug, clap::Args)]
struct OpenapiArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Which service to speak to, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Remote {
    /// Where the service is.
    #[arg(long, env = "RINGBACK_URL", global = true, default_value = "http://127.0.0.1:8080", value_parser = service_url)]
    url: String,
    /// The API key, `rbk_...`.
    #[arg(long, env = "RINGBACK_API_KEY", global = true, hide_env_values = true)]
    api_key: Option<sign::SecretText>,
}

impl Remote {
    /// The client of that service.
    fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&self.url, self.api_key.as_ref().and_then(sign::SecretText::given))?)
    }
}

fn service_url(text: &str) -> Result<String, &'static str> {
    let fine = |url: url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if url::Url::parse(text).is_ok_and(fine) { Ok(text.to_owned()) } else { Err("must be an http(s) URL") }
}

/// Refuses an address that others than this machine reach. In the environment it may be meant for `serve`.
fn check_loopback(listen: SocketAddr, why: &str) -> Result<(), Usage> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    Err(Usage(format!("--listen (or RINGBACK_LISTEN) {listen}: {why}")))
}

/// Refuses what cannot be a store before anything is opened.
///
/// Not a parser of the argument: the complaint would quote the text, and with it a password.
fn check_store(text: &str) -> Result<(), Usage> {
    match Target::parse(text) {
        Ok(_) => Ok(()),
        Err(store::Error::Bug(why)) => Err(Usage(why)),
        Err(other) => Err(Usage(format!("--store: {other}"))),
    }
}

/// Which part of a list.
#[derive(Debug, Clone, clap::Args)]
pub struct PageArgs {
    /// How many entries, 1..200.
    #[arg(long, env = "RINGBACK_LIMIT", value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: Option<u32>,
    /// Where the page before ended, as it said.
    #[arg(long, env = "RINGBACK_CURSOR")]
    cursor: Option<String>,
}

impl From<PageArgs> for PageQuery {
    fn from(args: PageArgs) -> PageQuery {
        PageQuery { limit: args.limit, cursor: args.cursor }
    }
}

/// Reads the arguments, does what they say, and answers with the documented exit code.
pub fn main() -> ExitCode {
    // Errors of usage, `--help` and `--version` end the process in here: 2, 0 and 0.
    let mut command = command();
    let matches = command.get_matches_mut();
    beside::check(&mut command, &matches).unwrap_or_else(|e| e.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let json = cli.json;
    telemetry::init(cli.command.usual_log());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if matches!(cli.command, Commands::Bench(_)) {
        // What measures leaves the processors to what is measured.
        builder.worker_threads(1);
    }
    let runtime = builder.enable_all().build();
    let code = runtime.context("cannot start the runtime").and_then(|runtime| {
        let code = runtime.block_on(run(cli));
        // A read of standard input cannot be cancelled and must not hold back the end.
        runtime.shutdown_background();
        code
    });
    code.unwrap_or_else(|error| exit::complain(&error, json).into())
}

/// The command with what the derive macro cannot say: `RINGBACK_JSON=1` is as good as `=true`; and what a command of `work`
/// or `run` asks of the service is not narrowed to the job that RINGBACK_JOB_ID tells it.
fn command() -> Command {
    fn lenient(command: Command) -> Command {
        command
            .mut_args(|arg| match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
                _ if arg.get_id() == "job_id" && child::is_told() => arg.env(None::<&str>),
                _ => arg,
            })
            .mut_subcommands(lenient)
    }
    lenient(Cli::command())
}

impl Commands {
    /// How much is logged where `RUST_LOG` does not say: services and workers tell what they do.
    fn usual_log(&self) -> &'static str {
        match self {
            Commands::Dev(_) | Commands::Serve(_) | Commands::Work(_) => "info",
            // Its receiver fails on purpose, and the story tells of it.
            Commands::Demo(_) => "error",
            Commands::Migrate(_)
            | Commands::Check(_)
            | Commands::Keyring(_)
            | Commands::RotateKeys(_)
            | Commands::Keys(_)
            | Commands::Config(_)
            | Commands::Submit(_)
            | Commands::Jobs(_)
            | Commands::Events(_)
            | Commands::Deliveries(_)
            | Commands::Lanes(_)
            | Commands::Endpoints(_)
            | Commands::Queues(_)
            | Commands::Run(_)
            | Commands::DeadLetters(_)
            | Commands::Sign(_)
            | Commands::Verify(_)
            | Commands::Listen(_)
            | Commands::Doctor(_)
            | Commands::Bench(_)
            | Commands::Openapi(_) => "warn",
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let out = Out { json: cli.json };
    match cli.command {
        Commands::Demo(args) => demo::run(args, out).await,
        Commands::Dev(args) => serve::dev(args, out).await,
        Commands::Serve(args) => serve::serve(args, out).await,
        Commands::Migrate(args) => serve::migrate(args, out).await,
        Commands::Check(args) => serve::check(args, out).await,
        Commands::Keyring(args) => keyring::run(args, out).await,
        Commands::RotateKeys(args) => keyring::rotate(args, out).await,
        Commands::Keys(args) => keys::run(args, out).await,
        Commands::Config(args) => serve::config(args, out),
        Commands::Submit(args) => submit::run(*args, out).await,
        Commands::Jobs(args) => jobs::run(args, out).await,
        Commands::Events(args) => events::run(args, out).await,
        Commands::Deliveries(args) => deliveries::run(args, out).await,
        Commands::Lanes(args) => lanes::run(args, out).await,
        Commands::Endpoints(args) => endpoints::run(args, out).await,
        Commands::Queues(args) => queues::run(args, out).await,
        Commands::DeadLetters(args) => dead_letters::run(args, out).await,
        Commands::Work(args) => work::run(args).await,
        Commands::Run(args) => run::run(*args, out).await,
        Commands::Sign(args) => sign::run_sign(&args, out.json, std::io::stdin(), std::io::stdout()),
        Commands::Verify(args) => {
            let now = Clock::wall().seconds();
            sign::run_verify(&args, out.json, std::io::stdin(), std::io::stdout(), now)
        }
        Commands::Listen(args) => listen::run(args, out).await,
        Commands::Doctor(args) => doctor::run(args, out).await,
        Commands::Bench(args) => bench::run(args, out).await,
        Commands::Openapi(args) => {
            let document = args.remote.client()?.openapi().await?;
            print::bytes(&document)?;
            print::raw("\n")?;
            Ok(Exit::Done.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command below `command`, itself included.
    fn all(command: &Command) -> Vec<Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_is_also_an_environment_variable_and_has_a_help_text() {
        let mut root = command();
        root.build();
        for command in all(&root).iter().filter(|command| command.get_name() != "help") {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                    continue;
                };
                let wanted = format!("RINGBACK_{}", long.to_uppercase().replace('-', "_"));
                let place = format!("{} --{long}", command.get_name());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(wanted.as_str()), "{place}");
                assert!(arg.get_help().is_some(), "{place}");
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn help_shows_no_secret_of_the_environment() {
        let mut root = command();
        root.build();
        for command in all(&root) {
            for arg in command.get_arguments() {
                let env = arg.get_env().and_then(|env| env.to_str());
                let secret = env.is_some_and(|env| child::SECRETS.contains(&env));
                assert_eq!(arg.is_hide_env_values_set(), secret, "{} {arg}", command.get_name());
            }
        }
    }

    #[test]
    fn the_contracts_commands_are_understood() {
        for line in [
            "dev --listen 127.0.0.1:0 --store sqlite://x.db --api-key rbk_x --config f",
            "serve --listen [::]:80 --public-url https://x --store sqlite://x --key-ring f --config f --role api,dispatch",
            "serve --store s --key-ring f --allow-cidr 10.0.0.0/8 --allow-cidr ::1/128 --allow-port 1 --allow-port 2 --allow-http",
            "keys create --store s --tenant t --scopes jobs:write,work",
            "keyring create f",
            "keyring list f --store s",
            "keyring add f",
            "keyring promote f k1",
            "keyring remove f k1 --store s",
            "rotate-keys --store s --key-ring f --per-second 100",
            "migrate --store s",
            "check --store s",
            "config print",
            "demo --stay --json",
            "openapi --url http://x",
            "submit --type t --input {} --callback-url https://x --callback-secret s --ref r --queue q --idempotency-key k --wait",
            "jobs list --json",
            "jobs --url http://x get job_01H455VB4PEX5VSKNK084SN02Q --api-key rbk_x",
            "events publish --type invoice.paid --data {} --account acme --id 7 --idempotency-key k",
            "events list --types invoice.* --account acme --after now --limit 5",
            "events follow --types job.* --json",
            "deliveries list --state dead",
            "deliveries explain dlv_01H455VB4PEX5VSKNK084SN02Q",
            "lanes list",
            "lanes pause lane_01H455VB4PEX5VSKNK084SN02Q --until 2026-01-01T00:00:00Z",
            "lanes resume lane_01H455VB4PEX5VSKNK084SN02Q",
            "endpoints create https://x --events invoice.*,job.failed --account a --rate-limit 5 --schemes github --ordered",
            "endpoints update ep_01H455VB4PEX5VSKNK084SN02Q --receiver https://y --reset headers,account",
            "endpoints rotate-secret ep_01H455VB4PEX5VSKNK084SN02Q --overlap-seconds 60",
            "endpoints verify ep_01H455VB4PEX5VSKNK084SN02Q --json",
            "queues list --limit 5",
            "queues show q",
            "queues pause q --until 2026-01-01T00:00:00Z",
            "queues resume q",
            "queues set q --max-in-flight 4",
            "queues set q --unlimited",
            "dead-letters show dlv_01H455VB4PEX5VSKNK084SN02Q",
            "dead-letters replay --dry-run --reason exhausted",
            "dead-letters outages --host h --since 2026-01-01T00:00:00Z --limit 5",
            "deliveries replay --state delivered --account a --rate-per-second 5 --wait",
            "dead-letters discard dlv_01H455VB4PEX5VSKNK084SN02Q",
            "work --exec cat --queue q --types a,b --concurrency 4 --lease-seconds 10",
            "run --type t --queue q --ref r --callback-url https://x --callback-secret s --lease-seconds 60 --metadata {} -- make -j 2",
            "run --idempotency-key k --result-file f --result-type text/html --anyway --json -- true",
            "sign --secret s --secret t --id i --timestamp 1",
            "sign --scheme stripe --secret s --timestamp 1",
            "verify --scheme github --secret s --signature x",
            "listen --listen 127.0.0.1:0 --forward-to http://x --secret s --secret t",
            "listen --events invoice.*,job.failed --account a --public-url https://x --url http://y --api-key k",
            "doctor https://x --secret s --allow-loopback --allow-cidr 10.0.0.0/8 --allow-port 1 --allow-http",
            "bench lifecycle --jobs 9 --warm-up 0 --limit-jobs 0 --rate 200 --nodes 2 --store postgres://h/d",
            "bench submit --connections 8 --window 10 --payload-bytes 0 --json",
            "bench backlog --due 1 --finished 2 --jobs 3 --rounds 4",
            "bench snapshot --hold-seconds 5",
            "bench endpoints --endpoints 6",
            "bench fanout --endpoints 7",
            "bench flood --connections 8 --seconds 9",
            "bench idle --finished 1 --rest-seconds 2 --starts 3",
            "bench streams --kind websocket --streams 20 --changes 5 --nodes 2 --store postgres://h/d --rest-seconds 1",
            "bench parked --deliveries 1 --rate-limit 2 --max-in-flight 3 --answer-ms 0 --store s",
            "verify --secret s --id i --timestamp 1 --signature v1,x --at 1 --json",
        ] {
            let words = std::iter::once("ringback").chain(line.split(' '));
            if let Err(e) = command().try_get_matches_from(words) {
                panic!("{line}: {e}");
            }
        }
    }

    #[test]
    fn a_mistyped_store_is_wrong_usage_and_is_not_quoted() {
        for good in ["sqlite://x.db", "sqlite:x.db?mode=rwc", "postgres://u:p@h/d", "postgresql:///d"] {
            assert!(check_store(good).is_ok(), "{good}");
        }
        for bad in ["x.db", "postgress://u:canary@h/d", "sqlite::memory:", "postgres://u:canary@h:port/d", ""]
        {
            let why = anyhow::Error::from(check_store(bad).unwrap_err());
            assert_eq!(exit::of(&why), Exit::Usage);
            let text = format!("{why:#}");
            assert!(
                text.starts_with("--store") && !text.contains("canary") && !text.contains("defect"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_on_the_command_line_is_never_quoted() {
        let matches = command().try_get_matches_from(["ringback", "openapi", "--api-key", "canary"]).unwrap();
        assert!(!format!("{:?}", Cli::from_arg_matches(&matches).unwrap()).contains("canary"));
    }
}
