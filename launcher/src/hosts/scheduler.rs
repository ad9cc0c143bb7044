//! The hosts of a scheduler's job.

use std::path::Path;

use super::error::{HostError, read};
use super::host::{Host, check_name};
use super::list::{HostList, Source};
use super::nodelist;

/// Returns the hosts of the Slurm, PBS, LSF or Grid Engine job of this process; `None` outside a job.
///
/// # Errors
/// If a variable of the scheduler, or a file that it names, is not understood.
pub fn resolve(environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<HostList>, HostError> {
    // The list of nodes of a heterogeneous job names only those of one of its parts.
    if let Some(variable) = first(environment, &["SLURM_HET_SIZE", "SLURM_PACK_SIZE"]).filter(|(_, size)| size != "1") {
        return Err(wrong(&variable, "a heterogeneous job, whose parts may have different hosts".to_owned()));
    }
    if let Some(nodes) = first(environment, &["SLURM_JOB_NODELIST", "SLURM_NODELIST"]) {
        return slurm(nodes, environment).map(Some);
    }
    if let Some((_, path)) = first(environment, &["PBS_NODEFILE"]) {
        return pbs(Path::new(&path)).map(Some);
    }
    if environment("LSB_JOBID").is_some() {
        return lsf(environment);
    }
    if let Some((_, path)) = first(environment, &["PE_HOSTFILE"]) {
        return grid_engine(Path::new(&path)).map(Some);
    }
    Ok(None)
}

type Variable = (&'static str, String);

fn first(environment: &dyn Fn(&str) -> Option<String>, names: &[&'static str]) -> Option<Variable> {
    names.iter().find_map(|&name| environment(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
}

fn wrong((name, value): &Variable, problem: String) -> HostError {
    HostError::Variable { name, value: value.clone(), problem }
}

/// Uses one rank per GPU if Slurm assigned GPUs, else the job's tasks. A job that requests no tasks gets one per node,
/// which says nothing about ranks.
fn slurm(nodes: Variable, environment: &dyn Fn(&str) -> Option<String>) -> Result<HostList, HostError> {
    let names = nodelist::expand(&nodes.1).map_err(|problem| wrong(&nodes, problem))?;
    names.iter().try_for_each(|name| check_name(name)).map_err(|problem| wrong(&nodes, problem))?;
    let mut notes = Vec::new();
    let slots = if let Some((name, gpus)) = slurm_gpus(environment)? {
        notes.push(format!("{gpus} ranks on each host: {name} gives as many GPUs"));
        vec![Some(gpus); names.len()]
    } else if let Some(tasks) = first(environment, &["SLURM_TASKS_PER_NODE"]) {
        let counts = nodelist::expand_counts(&tasks.1).map_err(|problem| wrong(&tasks, problem))?;
        if counts.len() != names.len() {
            let problem = format!("counts for {} hosts, and {} names {}", counts.len(), nodes.0, names.len());
            return Err(wrong(&tasks, problem));
        }
        let is_asked_for = first(environment, &["SLURM_NTASKS_PER_NODE", "SLURM_NTASKS"]).is_some();
        let says_something = is_asked_for || counts.iter().any(|&count| count != 1);
        counts.into_iter().map(|count| says_something.then_some(count)).collect()
    } else {
        vec![None; names.len()]
    };
    let hosts = names.iter().zip(slots).map(|(name, slots)| Host::new(name, slots)).collect();
    checked(HostList { hosts, source: Source::Slurm, notes }, |problem| wrong(&nodes, problem))
}

/// Returns the number of GPUs per node, and the variable that holds it. Slurm tells only the GPUs of this node; the
/// preflight checks that all nodes have the same number.
fn slurm_gpus(environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<(&'static str, usize)>, HostError> {
    if let Some(variable) = first(environment, &["SLURM_GPUS_ON_NODE"]) {
        // "8", "gpu:8" or "gpu:h100:8".
        let count = variable.1.rsplit(':').next().and_then(|count| count.parse().ok());
        let count = count.ok_or_else(|| wrong(&variable, "no number of GPUs".to_owned()))?;
        return Ok(Some((variable.0, count)).filter(|&(_, count)| count > 0));
    }
    let Some(variable) = first(environment, &["SLURM_JOB_GPUS"]) else { return Ok(None) };
    let list = nodelist::expand(&format!("[{}]", variable.1)).map_err(|problem| wrong(&variable, problem))?;
    Ok(Some((variable.0, list.len())))
}

/// The file lists a host once per slot. If it lists each host once, the job requested nodes and not slots.
fn pbs(path: &Path) -> Result<HostList, HostError> {
    let text = read("the PBS_NODEFILE", path)?;
    let mut hosts: Vec<Host> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let name = line.trim();
        if name.is_empty() {
            continue;
        }
        check_name(name).map_err(|problem| HostError::Line { path: path.to_owned(), line: i + 1, problem })?;
        count(&mut hosts, name, 1);
    }
    if hosts.iter().all(|host| host.slots == 1) {
        hosts = hosts.iter().map(|host| Host::new(&host.name, None)).collect();
    }
    Ok(HostList { hosts, source: Source::Pbs, notes: Vec::new() })
}

/// Each line has a host, its slots, its queue and its processors (see sge_pe(5)).
fn grid_engine(path: &Path) -> Result<HostList, HostError> {
    let text = read("the PE_HOSTFILE", path)?;
    let mut hosts: Vec<Host> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| HostError::Line { path: path.to_owned(), line: i + 1, problem };
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        check_name(name).map_err(wrong)?;
        let slots = words.next().and_then(|slots| slots.parse().ok());
        count(&mut hosts, name, slots.ok_or_else(|| wrong(format!("no number of slots follows {name}")))?);
    }
    Ok(HostList { hosts, source: Source::GridEngine, notes: Vec::new() })
}

fn lsf(environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<HostList>, HostError> {
    let mut hosts: Vec<Host> = Vec::new();
    let variable = if let Some(variable) = first(environment, &["LSB_DJOB_HOSTFILE"]) {
        for name in read("the LSB_DJOB_HOSTFILE", Path::new(&variable.1))?.split_whitespace() {
            count(&mut hosts, name, 1);
        }
        variable
    } else if let Some(variable) = first(environment, &["LSB_MCPU_HOSTS"]) {
        // Pairs of a host and its slots.
        let words: Vec<&str> = variable.1.split_whitespace().collect();
        for pair in words.chunks(2) {
            let slots = pair.get(1).and_then(|slots| slots.parse().ok());
            let slots = slots.ok_or_else(|| wrong(&variable, format!("no number follows {}", pair[0])))?;
            count(&mut hosts, pair[0], slots);
        }
        variable
    } else {
        return Ok(None);
    };
    let mut notes = Vec::new();
    // Clusters with launch nodes list that node first with one slot, before compute nodes with more.
    if hosts.len() > 1 && hosts[0].slots == 1 && hosts[1..].iter().all(|host| host.slots > 1) {
        notes.push(format!(
            "{} has one slot before hosts with more: it is the launch node and takes no rank",
            hosts[0].name
        ));
        hosts.remove(0);
    }
    checked(HostList { hosts, source: Source::Lsf, notes }, |problem| wrong(&variable, problem)).map(Some)
}

fn count(hosts: &mut Vec<Host>, name: &str, slots: usize) {
    match hosts.iter_mut().find(|host| host.name == name) {
        Some(host) => host.slots = host.slots.saturating_add(slots),
        None => hosts.push(Host::new(name, Some(slots))),
    }
}

fn checked(list: HostList, wrong: impl Fn(String) -> HostError) -> Result<HostList, HostError> {
    for (i, host) in list.hosts.iter().enumerate() {
        check_name(&host.name).map_err(&wrong)?;
        if list.hosts[..i].iter().any(|other| other.name == host.name) {
            return Err(wrong(format!("{} stands there twice", host.name)));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn list(variables: &[(&str, &str)]) -> Result<Option<HostList>, HostError> {
        resolve(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn shown(variables: &[(&str, &str)]) -> String {
        let hosts = list(variables).unwrap().unwrap().hosts;
        let one = |host: &Host| format!("{}:{}{}", host.name, host.slots, if host.slots_given { "" } else { "?" });
        hosts.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn grid_engine_jobs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "n1 8 all.q@n1 UNDEFINED\nn2 4 all.q@n2 <NULL>\nn1 2 gpu.q@n1 UNDEFINED\n\n")
            .unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(shown(&[("PE_HOSTFILE", path)]), "n1:10 n2:4");
        for (line, word) in [("n1 many all.q@n1 x\n", "no number of slots"), ("-oProxyCommand=x 1 q x\n", ":1: ")] {
            std::fs::write(file.path(), line).unwrap();
            let error = list(&[("PE_HOSTFILE", path)]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn heterogeneous_slurm_jobs_are_refused() {
        let job = |size| list(&[("SLURM_JOB_NODELIST", "n[1-2]"), ("SLURM_HET_SIZE", size)]);
        let error = job("2").unwrap_err().to_string();
        assert!(error.contains("heterogeneous") && error.contains("--hosts"), "{error}");
        assert!(job("1").is_ok());
    }

    #[test]
    fn slurm_jobs() {
        let nodes = ("SLURM_JOB_NODELIST", "n[1-2]");
        let tasks = |value| ("SLURM_TASKS_PER_NODE", value);
        assert_eq!(shown(&[nodes]), "n1:8? n2:8?");
        assert_eq!(shown(&[("SLURM_NODELIST", "n3")]), "n3:8?");
        assert_eq!(shown(&[nodes, tasks("4(x2)")]), "n1:4 n2:4");
        assert_eq!(shown(&[nodes, tasks("4,2")]), "n1:4 n2:2");
        // Slurm assigns one task per node to a job that requests none.
        assert_eq!(shown(&[nodes, tasks("1(x2)")]), "n1:8? n2:8?");
        assert_eq!(shown(&[nodes, tasks("1(x2)"), ("SLURM_NTASKS_PER_NODE", "1")]), "n1:1 n2:1");
        assert_eq!(shown(&[nodes, tasks("1(x2)"), ("SLURM_GPUS_ON_NODE", "8")]), "n1:8 n2:8");
        assert_eq!(shown(&[nodes, tasks("64(x2)"), ("SLURM_JOB_GPUS", "0,2-4")]), "n1:4 n2:4");
        assert_eq!(shown(&[nodes, tasks("2(x2)"), ("SLURM_GPUS_ON_NODE", "0")]), "n1:2 n2:2");
        let message = list(&[nodes, tasks("4(x3)")]).unwrap_err().to_string();
        assert!(message.contains("SLURM_TASKS_PER_NODE=4(x3): counts for 3 hosts, and SLURM_JOB_NODELIST names 2"));
        for wrong in [[nodes, tasks("x")], [nodes, ("SLURM_GPUS_ON_NODE", "many")], [nodes, ("SLURM_JOB_GPUS", "3-1")]]
        {
            assert!(list(&wrong).unwrap_err().to_string().contains(wrong[1].0));
        }
        assert!(list(&[("SLURM_JOB_NODELIST", "n[1")]).unwrap_err().to_string().contains("SLURM_JOB_NODELIST=n[1: "));
        assert!(list(&[("SLURM_JOB_NODELIST", "n1,n1")]).unwrap_err().to_string().contains("n1 stands there twice"));
    }

    #[test]
    fn pbs_lists_a_host_once_per_slot() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(file.path(), "n0\nn0\nn1\nn1\n\n").unwrap();
        assert_eq!(shown(&[("PBS_NODEFILE", path)]), "n0:2 n1:2");
        std::fs::write(file.path(), "n0\nn1\n").unwrap();
        assert_eq!(shown(&[("PBS_NODEFILE", path)]), "n0:8? n1:8?");
        std::fs::write(file.path(), "n0\n-n1\n").unwrap();
        assert!(list(&[("PBS_NODEFILE", path)]).unwrap_err().to_string().contains(":2: \"-n1\" is no host name"));
        assert!(list(&[("PBS_NODEFILE", "/no/file")]).unwrap_err().to_string().contains("the PBS_NODEFILE /no/file"));
    }

    #[test]
    fn lsf_jobs() {
        let job = ("LSB_JOBID", "7");
        assert_eq!(list(&[("LSB_MCPU_HOSTS", "a 4")]).unwrap(), None);
        assert_eq!(list(&[job]).unwrap(), None);
        assert_eq!(shown(&[job, ("LSB_MCPU_HOSTS", "a 4 b 2")]), "a:4 b:2");
        assert_eq!(shown(&[job, ("LSB_MCPU_HOSTS", "a 4 b 1")]), "a:4 b:1");
        assert_eq!(shown(&[job, ("LSB_MCPU_HOSTS", "a 1")]), "a:1");
        let launch = [job, ("LSB_MCPU_HOSTS", "batch1 1 a 6 b 6")];
        assert_eq!(shown(&launch), "a:6 b:6");
        assert!(list(&launch).unwrap().unwrap().notes[0].contains("batch1"));
        assert!(list(&[job, ("LSB_MCPU_HOSTS", "a 4 b")]).unwrap_err().to_string().contains("no number follows b"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\na\nb\nb\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(shown(&[job, ("LSB_DJOB_HOSTFILE", path), ("LSB_MCPU_HOSTS", "z 9")]), "a:2 b:2");
    }
}
