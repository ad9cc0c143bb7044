//! Which hosts a run may use, and how many ranks each takes: from a hostfile, from `--hosts`, from the cluster's
//! scheduler, or this machine alone.

mod here;
mod hostfile;
mod nodelist;
mod option;
mod scheduler;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use here::is_this_host;
pub use nodelist::expand;

/// The ranks of a host of which nothing says how many it takes.
pub const DEFAULT_SLOTS: usize = 8;
/// No host takes more: a number beyond is a slip.
pub const MOST_SLOTS: usize = 4096;
/// The one host of a run on this machine alone.
pub const LOCALHOST: &str = "localhost";

/// A host and how many ranks it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// As it was given: what `mpirun` and ssh reach it by.
    pub name: String,
    /// Ranks, one a GPU.
    pub slots: usize,
    /// Whether somebody said so: `slots=`, `:8`, or the scheduler. Else it is [`DEFAULT_SLOTS`], and the number of GPUs
    /// that are found on the host takes its place.
    pub slots_given: bool,
}

impl Host {
    fn new(name: &str, slots: Option<usize>) -> Self {
        Self { name: name.to_owned(), slots: slots.unwrap_or(DEFAULT_SLOTS), slots_given: slots.is_some() }
    }
}

/// The hosts of a run, in the order in which ranks fill them. Those that a run has no need of are its spares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostList {
    /// At least one, no name twice.
    pub hosts: Vec<Host>,
    /// Who named them.
    pub source: Source,
    /// What a user should know about how they were read.
    pub notes: Vec<String>,
}

/// Who named the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    HostFile(PathBuf),
    /// `--hosts`.
    Option,
    /// Slurm, of whose job this process is part.
    Slurm,
    /// PBS or Torque.
    Pbs,
    /// LSF.
    Lsf,
    /// Nobody: this machine alone.
    Local,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HostFile(path) => write!(f, "the hostfile {}", path.display()),
            Self::Option => f.write_str("--hosts"),
            Self::Slurm => f.write_str("Slurm's job"),
            Self::Pbs => f.write_str("the PBS job"),
            Self::Lsf => f.write_str("the LSF job"),
            Self::Local => f.write_str("this machine"),
        }
    }
}

/// What the command line says about hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRequest {
    /// `--hostfile`.
    pub hostfile: Option<PathBuf>,
    /// `--hosts`, as `n0:8,n1`.
    pub hosts: Option<String>,
    /// `--np`: ranks. Here it matters only where nobody names hosts.
    pub np: Option<usize>,
}

/// Why the hosts cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file that names hosts cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    Read {
        /// What it is to the user.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of such a file is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// `--hosts` is wrong.
    #[error("--hosts: {0}")]
    Option(String),
    /// A variable that the scheduler set is not understood.
    #[error("{name}={value}: {problem}; name the hosts with --hosts or --hostfile")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// Two ways of naming hosts at once.
    #[error("--hostfile and --hosts both name the hosts: give one of them")]
    Both,
    /// No ranks were asked for.
    #[error("--np 0: a run has at least one rank")]
    NoRanks,
    /// A host is to take more than any can.
    #[error("{host} is to take {slots} ranks, by {source_of}: a host takes {MOST_SLOTS} at most")]
    TooMany {
        /// Which.
        host: String,
        /// So many.
        slots: usize,
        /// Who says so.
        source_of: Source,
    },
    /// Nothing is named.
    #[error("{0} names no host that takes a rank")]
    Empty(Source),
}

/// The hosts of a run. The command line goes before the scheduler's `environment`; where neither names any it is this
/// machine with `np` ranks, or one.
///
/// # Errors
/// What names hosts is not understood: the place and the reason.
pub fn resolve(request: &HostRequest, environment: &dyn Fn(&str) -> Option<String>) -> Result<HostList, HostError> {
    if request.np == Some(0) {
        return Err(HostError::NoRanks);
    }
    let named = |hosts, source| HostList { hosts, source, notes: Vec::new() };
    let mut list = match (&request.hostfile, &request.hosts) {
        (Some(_), Some(_)) => return Err(HostError::Both),
        (Some(path), None) => {
            named(hostfile::parse(&read("the hostfile", path)?, path)?, Source::HostFile(path.clone()))
        }
        (None, Some(text)) => named(option::parse(text).map_err(HostError::Option)?, Source::Option),
        (None, None) => match scheduler::resolve(environment)? {
            Some(list) => list,
            None => named(vec![Host::new(LOCALHOST, Some(request.np.unwrap_or(1)))], Source::Local),
        },
    };
    if list.source == Source::Local {
        list.hosts[0].slots_given = request.np.is_some();
    }
    list.hosts.retain(|host| host.slots > 0);
    if let Some(host) = list.hosts.iter().find(|host| host.slots > MOST_SLOTS) {
        return Err(HostError::TooMany { host: host.name.clone(), slots: host.slots, source_of: list.source });
    }
    if list.hosts.is_empty() {
        return Err(HostError::Empty(list.source));
    }
    Ok(list)
}

fn read(what: &'static str, path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::Read { what, path: path.to_owned(), source })
}

/// Refuses what is no host name or IPv4 address. Such a name can stand on a command line without being taken for an
/// option or for two hosts.
fn check_name(name: &str) -> Result<(), String> {
    if let Some((user, host)) = name.split_once('@') {
        return Err(format!(
            "{name:?}: a user cannot be given here; write \"{host}\" and put \"User {user}\" for it into ~/.ssh/config"
        ));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        return Ok(());
    }
    if name.is_empty() {
        return Err("a host has no name".to_owned());
    }
    Err(format!("{name:?} is no host name: ASCII letters, digits, \".\", \"-\" and \"_\" can stand in one"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn nobody_names_hosts() {
        let local = |np| resolve(&HostRequest { np, ..HostRequest::default() }, &nothing).map(|list| list.hosts);
        let host = |slots, slots_given| vec![Host { name: "localhost".to_owned(), slots, slots_given }];
        assert_eq!(local(None).unwrap(), host(1, false));
        assert_eq!(local(Some(2)).unwrap(), host(2, true));
        assert!(matches!(local(Some(0)), Err(HostError::NoRanks)));
    }

    #[test]
    fn the_command_line_goes_before_the_scheduler() {
        let slurm = |name: &str| (name == "SLURM_JOB_NODELIST").then(|| "a[1-2]".to_owned());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "f slots=2\n").unwrap();
        let names = |hostfile: bool, hosts: Option<&str>| {
            let request = HostRequest {
                hostfile: hostfile.then(|| file.path().to_owned()),
                hosts: hosts.map(str::to_owned),
                np: Some(1),
            };
            resolve(&request, &slurm)
                .map(|list| (list.hosts.into_iter().map(|host| host.name).collect::<Vec<_>>().join(" "), list.source))
        };
        assert_eq!(names(false, None).unwrap(), ("a1 a2".to_owned(), Source::Slurm));
        assert_eq!(names(false, Some("o")).unwrap(), ("o".to_owned(), Source::Option));
        assert_eq!(names(true, None).unwrap().0, "f");
        assert!(matches!(names(true, Some("o")), Err(HostError::Both)));
    }

    #[test]
    fn hosts_without_ranks_are_passed_over() {
        let list =
            |text: &str| resolve(&HostRequest { hosts: Some(text.to_owned()), ..HostRequest::default() }, &nothing);
        assert_eq!(list("a:0,b:1").unwrap().hosts, [Host::new("b", Some(1))]);
        assert_eq!(list("a:0").unwrap_err().to_string(), "--hosts names no host that takes a rank");
    }

    #[test]
    fn more_ranks_than_any_host_takes_are_refused() {
        let refused = |request: HostRequest| resolve(&request, &nothing).unwrap_err().to_string();
        let here = refused(HostRequest { np: Some(MOST_SLOTS + 1), ..HostRequest::default() });
        assert_eq!(here, "localhost is to take 4097 ranks, by this machine: a host takes 4096 at most");
        let most = HostRequest { hosts: Some("a:4096".to_owned()), ..HostRequest::default() };
        assert_eq!(resolve(&most, &nothing).unwrap().hosts[0].slots, 4096);
        let named = refused(HostRequest { hosts: Some("a:4096,b,a".to_owned()), ..HostRequest::default() });
        assert!(named.contains("a is to take 4097 ranks, by --hosts"), "{named}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let request = HostRequest { hostfile: Some("/no/such/hosts".into()), ..HostRequest::default() };
        let message = resolve(&request, &nothing).unwrap_err().to_string();
        assert!(message.starts_with("the hostfile /no/such/hosts cannot be read: "), "{message}");
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["n0", "10.0.0.1", "gpu-a1.example.org", "7", "a_b"] {
            check_name(name).unwrap();
        }
        for name in ["", "-x", "a,b", "a b", "fe80::1", "a;b", ".a", "é"] {
            check_name(name).unwrap_err();
        }
        let message = check_name("me@n0").unwrap_err();
        assert!(message.contains("User me") && message.contains("\"n0\""), "{message}");
    }
}
