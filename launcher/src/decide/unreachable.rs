//! Blaming hosts that cannot be reached.

use super::cause::{Cause, Incident};

/// Blames `unreachable` hosts for an incident, and returns the incident and its sentence.
///
/// A host on which nothing can be started fails every later attempt, so it replaces any other cause. If hosts are
/// already blamed as lost, the unreachable ones are added to them.
#[must_use]
pub fn blame_unreachable(mut incident: Incident, mut sentence: String, unreachable: &[String]) -> (Incident, String) {
    for host in unreachable {
        if incident.cause != Cause::HostLost {
            (incident.cause, incident.hosts) = (Cause::HostLost, Vec::new());
            sentence = format!("{sentence}; {host} cannot be reached");
        }
        if !incident.hosts.contains(host) {
            incident.hosts.push(host.clone());
        }
    }
    (incident, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(cause: Cause, hosts: &[&str], unreachable: &[&str]) -> (Cause, Vec<String>, String) {
        let names = |hosts: &[&str]| hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        let incident = Incident { at_seconds: 1.0, rank: Some(3), hosts: names(hosts), cause, steps_gained: 5 };
        let (incident, sentence) = blame_unreachable(incident, "it failed".to_owned(), &names(unreachable));
        assert_eq!((incident.rank, incident.steps_gained), (Some(3), 5));
        (incident.cause, incident.hosts, sentence)
    }

    #[test]
    fn an_incident_without_unreachable_hosts_stays() {
        assert_eq!(blamed(Cause::Exit(70), &["n0"], &[]), (Cause::Exit(70), vec!["n0".into()], "it failed".into()));
    }

    #[test]
    fn an_unreachable_host_replaces_another_cause() {
        let expected = (Cause::HostLost, vec!["n1".into()], "it failed; n1 cannot be reached".into());
        assert_eq!(blamed(Cause::Signal(9), &["n0"], &["n1"]), expected);
        let expected = (Cause::HostLost, vec!["n1".into(), "n2".into()], "it failed; n1 cannot be reached".into());
        assert_eq!(blamed(Cause::Stalled, &[], &["n1", "n2"]), expected);
    }

    #[test]
    fn an_unreachable_host_joins_hosts_that_are_lost() {
        let expected = (Cause::HostLost, vec!["n0".into(), "n1".into()], "it failed".into());
        assert_eq!(blamed(Cause::HostLost, &["n0"], &["n0", "n1"]), expected);
    }
}
