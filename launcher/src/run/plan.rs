//! The settings of a launch that are fixed before anything is started.

use admiral_contract::environment::check_utf8;
use admiral_contract::files::check_expanded;

use super::error::LaunchError;
use super::job::Job;
use super::options::{HostOptions, LaunchOptions, RunOptions, SampleOptions};
use crate::environment::Environment;
use crate::facts;
use crate::hosts::{Host, HostList, Source, is_this_host, resolve};
use crate::layout::Layout;
use crate::mpirun::{MpirunCommand, RemoteStart, find_mpirun, is_passed, passed_variables};
use crate::supervise::{AttemptSpec, Vanish, own_addresses};

/// `mpirun`'s grace period for agents that it has told to end. It is longer than any in a configuration, because the
/// launcher and the agents end ranks in time, and `mpirun` may be started before the configuration is known.
const MPIRUN_GRACE_SECONDS: u64 = 3600;

/// The settings of a launch that are fixed before anything is started.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The options of the user.
    pub options: LaunchOptions,
    /// The job.
    pub job: Job,
    /// The hosts, including spares.
    pub hosts: HostList,
    /// The number of ranks.
    pub world: usize,
    /// The path of `mpirun`.
    pub mpirun: std::path::PathBuf,
    /// The path of `admiral`.
    pub program: std::path::PathBuf,
    /// The variables of this environment that ranks get.
    pub variables: Vec<(String, String)>,
    /// For a drill: the host to cut off.
    pub vanish: Option<Vanish>,
    /// Whether the ranks have GPUs; known after the preflight.
    pub has_gpus: Option<bool>,
    /// For a drill: the message at its start.
    pub drill: Option<String>,
    /// The launcher's environment.
    pub environment: Environment,
}

impl LaunchPlan {
    /// Reads the options of a training run, and the environment. Starts nothing.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub fn train(options: RunOptions, environment: &Environment) -> Result<Self, LaunchError> {
        let job = Job::train(&options)?;
        Self::new(options.launch, job, environment)
    }

    /// Reads the options of a sampling job, and the environment. Starts nothing.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub fn sample(options: SampleOptions, environment: &Environment) -> Result<Self, LaunchError> {
        let job = Job::sample(&options)?;
        Self::new(options.launch, job, environment)
    }

    fn new(options: LaunchOptions, job: Job, environment: &Environment) -> Result<Self, LaunchError> {
        if let Some(textfile) = &options.textfile {
            check_expanded("--textfile", textfile).map_err(LaunchError::config)?;
        }
        // A variable that is left out would change what the ranks do.
        let pass = &options.hosts.pass;
        check_utf8(&environment.variables, |name| is_passed(name, pass)).map_err(LaunchError::config)?;
        let HostOptions { hostfile, hosts, np, .. } = options.hosts.clone();
        let request = crate::hosts::HostRequest { hostfile, hosts, np };
        let hosts = resolve(&request, &|name| environment.get_lossy(name)).map_err(LaunchError::config)?;
        let slots: usize = hosts.hosts.iter().map(|host| host.slots).sum();
        let world = np.unwrap_or(slots);
        // Report mistakes now, and not after the hosts were examined. But the GPUs of some hosts may have to be counted
        // first.
        let is_known = options.no_preflight || options.dry_run || hosts.hosts.iter().all(|host| host.slots_given);
        Layout::new(&hosts.hosts, if is_known { world } else { 1 }).map_err(LaunchError::config)?;
        check_ranges(&options, is_known.then_some(world), hosts.hosts.len())?;
        let mpirun = find_mpirun(options.hosts.mpirun.as_deref(), &environment.path).map_err(LaunchError::system)?;
        let variables = passed_variables(environment.texts(), &options.hosts.pass).map_err(LaunchError::config)?;
        let program = facts::program(options.hosts.program.as_deref());
        Ok(Self {
            options,
            job,
            hosts,
            world,
            mpirun,
            program,
            variables,
            vanish: None,
            has_gpus: None,
            drill: None,
            environment: environment.clone(),
        })
    }

    /// Returns whether all ranks are on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.hosts.source == Source::Local
    }

    /// Returns whether the number of ranks is known before the GPUs are counted.
    pub(super) fn has_given_slots(&self) -> bool {
        self.options.hosts.np.is_some() || self.hosts.hosts.iter().all(|host| host.slots_given)
    }

    /// Returns the command that starts this program with `arguments` on every place of `layout`.
    pub(super) fn mpirun_command(&self, layout: Layout, arguments: &[&str], grace_seconds: u64) -> MpirunCommand {
        MpirunCommand {
            mpirun: self.mpirun.clone(),
            layout,
            program: std::env::current_exe().unwrap_or_else(|_| "admiral-launch".into()),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            variables: self.variables.clone(),
            grace_seconds,
            is_root: rustix::process::getuid().is_root(),
            oversubscribe: true,
            interfaces: self.options.hosts.interfaces.clone(),
            remote_start: RemoteStart::of(&self.environment),
            options: self.options.hosts.mpirun_options.clone(),
            temporary_folder: self.environment.temporary_folder.clone(),
        }
    }

    /// Returns the addresses by which the hosts may reach this machine.
    pub(super) fn addresses(&self) -> Result<Vec<std::net::IpAddr>, LaunchError> {
        match self.options.hosts.address {
            Some(address) => Ok(vec![address]),
            None => own_addresses(self.is_local()).map_err(LaunchError::system),
        }
    }

    /// Returns the command of an attempt with `world` ranks on these hosts.
    pub(super) fn attempt(
        &self,
        ordinal: u64,
        launch_id: &str,
        hosts: &[Host],
        world: usize,
    ) -> Result<AttemptSpec, LaunchError> {
        let layout = Layout::with_first(hosts, world, is_this_host).map_err(LaunchError::config)?;
        let addresses = self.addresses()?;
        Ok(AttemptSpec {
            ordinal,
            launch_id: launch_id.to_owned(),
            mpirun: self.mpirun_command(layout, &["agent"], MPIRUN_GRACE_SECONDS),
            addresses,
        })
    }
}

/// Refuses options that name ranks and hosts which the run does not have. `world` is given if it is known already.
fn check_ranges(options: &LaunchOptions, world: Option<usize>, hosts: usize) -> Result<(), LaunchError> {
    if let Some(world) = world {
        if let Some(rank) = options.show_rank.highest().filter(|&rank| rank >= world) {
            let message = format!("--show-rank {rank}: the run has {world} ranks, from 0 to {}", world - 1);
            return Err(LaunchError::config(message));
        }
        if options.min_ranks > world {
            let message = format!("--min-ranks {}: the run has {world} ranks to begin with", options.min_ranks);
            return Err(LaunchError::config(message));
        }
    }
    match options.allow_fewer_hosts {
        Some(least) if least > hosts => {
            Err(LaunchError::config(format!("--allow-fewer-hosts {least}: the run has {hosts} hosts to begin with")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct RunArguments {
        #[command(flatten)]
        options: RunOptions,
    }

    #[test]
    fn options_beyond_the_runs_ranks_and_hosts_are_refused() {
        let check = |words: &[&str], world| {
            let words = ["x", "c.yaml"].iter().chain(words);
            let options = <RunArguments as clap::Parser>::parse_from(words).options;
            check_ranges(&options.launch, world, 2).map_err(|error| error.message)
        };
        for words in [&[][..], &["--show-rank", "all"], &["--show-rank", "0,3"], &["--min-ranks", "4"]] {
            assert_eq!(check(words, Some(4)), Ok(()), "{words:?}");
        }
        for words in [["--show-rank", "0,4"], ["--min-ranks", "5"], ["--allow-fewer-hosts", "3"]] {
            assert!(check(&words, Some(4)).is_err_and(|message| message.starts_with(words[0])), "{words:?}");
        }
        assert_eq!(check(&["--show-rank", "9"], None), Ok(()), "GPUs are still to be counted");
    }

    #[test]
    fn variables_that_are_not_utf8_are_named_and_not_left_out() {
        use std::os::unix::ffi::OsStringExt;
        let refused = |name: &str, more: &[&str]| {
            let words = ["x", "c.yaml"].iter().chain(more);
            let options = <RunArguments as clap::Parser>::parse_from(words).options;
            let value = std::ffi::OsString::from_vec(b"n0\xff".to_vec());
            let error = LaunchPlan::train(options, &Environment::new([(name.into(), value)])).err();
            error.map_or_else(String::new, |error| format!("{}: {}", error.code, error.message))
        };
        for (name, more) in [("AWS_ENDPOINT_URL", &[][..]), ("RUST_LOG", &[]), ("OWN", &["--pass", "OWN"])] {
            let message = refused(name, more);
            assert!(message.starts_with(&format!("64: the environment variable {name} is not UTF-8")), "{message}");
        }
        let message = refused("SLURM_JOB_NODELIST", &[]);
        assert!(message.starts_with("64: ") && message.contains("SLURM_JOB_NODELIST"), "{message}");
    }
}
