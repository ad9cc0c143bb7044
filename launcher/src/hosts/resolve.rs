//! Choosing the source of a run's hosts.

use std::path::PathBuf;

use super::error::{HostError, read};
use super::host::{Host, LOCALHOST, MAX_SLOTS_PER_HOST};
use super::list::{HostList, Source};
use super::{hostfile, option, scheduler};

/// The options that concern hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRequest {
    /// `--hostfile`.
    pub hostfile: Option<PathBuf>,
    /// `--hosts`, such as `n0:8,n1`.
    pub hosts: Option<String>,
    /// `--np`, the number of ranks. It is used here only if no source names hosts.
    pub np: Option<usize>,
}

/// Returns the hosts of the run. The options take precedence over the scheduler's `environment`. If neither names
/// hosts, the run uses this machine with `np` ranks, or one.
///
/// # Errors
/// If the source of the hosts is not understood: the place and the reason.
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
    if let Some(host) = list.hosts.iter().find(|host| host.slots > MAX_SLOTS_PER_HOST) {
        return Err(HostError::TooMany { host: host.name.clone(), slots: host.slots, source_of: list.source });
    }
    if list.hosts.is_empty() {
        return Err(HostError::Empty(list.source));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn without_named_hosts_the_run_is_local() {
        let local = |np| resolve(&HostRequest { np, ..HostRequest::default() }, &nothing).map(|list| list.hosts);
        let host = |slots, slots_given| vec![Host { name: "localhost".to_owned(), slots, slots_given }];
        assert_eq!(local(None).unwrap(), host(1, false));
        assert_eq!(local(Some(2)).unwrap(), host(2, true));
        assert!(matches!(local(Some(0)), Err(HostError::NoRanks)));
    }

    #[test]
    fn the_command_line_takes_precedence_over_the_scheduler() {
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
    fn hosts_without_slots_are_skipped() {
        let list =
            |text: &str| resolve(&HostRequest { hosts: Some(text.to_owned()), ..HostRequest::default() }, &nothing);
        assert_eq!(list("a:0,b:1").unwrap().hosts, [Host::new("b", Some(1))]);
        assert_eq!(list("a:0").unwrap_err().to_string(), "--hosts names no host that takes a rank");
    }

    #[test]
    fn too_many_slots_of_a_host_are_refused() {
        let refused = |request: HostRequest| resolve(&request, &nothing).unwrap_err().to_string();
        let here = refused(HostRequest { np: Some(MAX_SLOTS_PER_HOST + 1), ..HostRequest::default() });
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
}
