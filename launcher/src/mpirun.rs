//! The command line of `mpirun`, with options common to Open MPI 4 and 5, and the variables that ranks get.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::Environment;
use crate::hosts::is_this_host;
use crate::layout::Layout;
use crate::shell::quoted;
use admiral_contract::secret::{masked, masked_argument};

/// Variables whose names begin like this are passed to every rank: the libraries in it read them.
const PASSED_BEGINNINGS: [&str; 11] =
    ["ADMIRAL_", "AWS_", "AZURE_", "GOOGLE_", "CUDA_", "NCCL_", "OMP_", "PYTORCH_", "TORCH_", "UCX_", "FI_"];
/// More variables that are passed.
const PASSED: [&str; 11] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LD_LIBRARY_PATH",
    "NO_PROXY",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "https_proxy",
    "http_proxy",
    "no_proxy",
];
/// Variables that are valid on this machine only.
const NOT_PASSED: [&str; 1] = [admiral_contract::environment::LEDGER];
/// Open MPI components that take hosts and slots from a scheduler. They are off, because the command line names the
/// hosts.
const ALLOCATORS: &str = "^slurm,tm,lsf,gridengine";

/// `mpirun` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MpirunError {
    /// `mpirun` was not found.
    #[error(
        "mpirun is not installed (looked in PATH: {path}); install Open MPI: openmpi-bin on Debian and Ubuntu, openmpi \
         on Fedora, or your cluster's module"
    )]
    Missing {
        /// The folders that were searched.
        path: String,
    },
    /// The named program cannot be run.
    #[error("{path} is no program that can be run; --mpirun takes the path of Open MPI's mpirun")]
    NotAProgram {
        /// Its path.
        path: PathBuf,
    },
    /// `--pass NAME` without such a variable.
    #[error("--pass {0}: there is no such variable in the environment")]
    NotSet(String),
    /// `--pass` with something that is not a name.
    #[error("--pass {0:?}: give the name of a variable; its value is taken from the environment")]
    NoName(String),
}

/// Returns the path of the `mpirun` to use: the one that is named, or the first in `folders`, which has the form of
/// `PATH`. The path is absolute, so that Open MPI finds its own parts at the same place on the other hosts.
///
/// # Errors
/// If there is no such program.
pub fn find_mpirun(named: Option<&Path>, folders: &str) -> Result<PathBuf, MpirunError> {
    let is_program = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if let Some(path) = named {
        let found = std::path::absolute(path).ok().filter(|path| is_program(path));
        return found.ok_or_else(|| MpirunError::NotAProgram { path: path.to_owned() });
    }
    std::env::split_paths(folders)
        .map(|folder| folder.join("mpirun"))
        .find(|path| path.is_absolute() && is_program(path))
        .ok_or_else(|| MpirunError::Missing { path: folders.to_owned() })
}

/// Returns the variables of an `environment` that ranks get on every host, by name: those that Admiral and its
/// libraries read, and those that `--pass` adds.
///
/// # Errors
/// If a variable of `--pass` is not set.
pub fn passed_variables(
    environment: impl IntoIterator<Item = (String, String)>,
    pass: &[String],
) -> Result<Vec<(String, String)>, MpirunError> {
    let environment: BTreeMap<_, _> = environment.into_iter().collect();
    for name in pass {
        if name.is_empty() || name.contains('=') {
            return Err(MpirunError::NoName(name.clone()));
        }
        if !environment.contains_key(name) {
            return Err(MpirunError::NotSet(name.clone()));
        }
    }
    Ok(environment.into_iter().filter(|(name, _)| is_passed(name, pass)).collect())
}

/// Returns whether ranks get the variable `name`. `pass` has the names of `--pass`.
pub(crate) fn is_passed(name: &str, pass: &[String]) -> bool {
    let is_known = PASSED.contains(&name) || PASSED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    is_known && !NOT_PASSED.contains(&name) || pass.iter().any(|extra| extra == name)
}

/// How Open MPI starts its daemons on other hosts. [`ALLOCATORS`] are off, so it does not know which hosts a scheduler
/// has given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RemoteStart {
    /// By ssh, or the program of `plm_rsh_agent`, or whatever Open MPI finds.
    #[default]
    Agent,
    /// In a job of Slurm, by one `srun` for all hosts. Unless it is told the hosts, it takes the first of the job.
    Srun {
        /// The value of `OMPI_MCA_plm_slurm_args`, which Open MPI passes to `srun`.
        arguments: String,
    },
    /// In a job of PBS, by ssh too. Open MPI's own way numbers hosts by their places in the job, which it does not know.
    NotPbs,
}

impl RemoteStart {
    /// Returns the way that follows from the environment of this process.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if ["SLURM_JOB_ID", "SLURM_JOBID"].into_iter().any(|name| variable(name).is_some()) {
            return Self::Srun { arguments: variable("OMPI_MCA_plm_slurm_args").unwrap_or_default() };
        }
        match (variable("PBS_JOBID"), variable("OMPI_MCA_plm")) {
            (Some(_), None) => Self::NotPbs,
            _ => Self::Agent,
        }
    }

    /// Returns the options of `mpirun` for daemons on `hosts`.
    fn options(&self, hosts: &[&str]) -> Vec<String> {
        let (name, value) = match self {
            Self::Srun { arguments } if !hosts.is_empty() => {
                ("plm_slurm_args", format!("{arguments} --nodelist={}", hosts.join(",")).trim_start().to_owned())
            }
            Self::NotPbs => ("plm", "^tm".to_owned()),
            Self::Agent | Self::Srun { .. } => return Vec::new(),
        };
        vec!["--mca".to_owned(), name.to_owned(), value]
    }

    /// Returns the variables of `mpirun` itself.
    fn variables(&self) -> Option<(String, String)> {
        // Otherwise a second `mpirun`, which cleans up or examines a host, would wait until the first one has ended.
        matches!(self, Self::Srun { .. }).then(|| ("SLURM_OVERLAP".to_owned(), "1".to_owned()))
    }
}

/// An `mpirun` to start, with one process for each rank.
#[derive(Debug, Clone)]
pub struct MpirunCommand {
    /// The path of the program, from [`find_mpirun`].
    pub mpirun: PathBuf,
    /// The places of the ranks.
    pub layout: Layout,
    /// The program that every rank runs.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables that every rank gets besides its host's own environment. They are set for `mpirun` itself, which
    /// passes them on by name, so that no value appears on a command line.
    pub variables: Vec<(String, String)>,
    /// Seconds from SIGTERM to SIGKILL for ranks when `mpirun` itself is told to end.
    pub grace_seconds: u64,
    /// Whether this process is root. Open MPI requires an option then.
    pub is_root: bool,
    /// Whether a host may have more ranks than cores, as on a laptop.
    pub oversubscribe: bool,
    /// Network interfaces (`eth0,ib0`) or networks (`10.0.0.0/16`) to use; `None` leaves the choice to Open MPI.
    pub interfaces: Option<String>,
    /// How Open MPI starts its daemons on other hosts.
    pub remote_start: RemoteStart,
    /// More options from the user; each may be several words.
    pub options: Vec<String>,
    /// The folder in which Open MPI creates its session folders.
    pub temporary_folder: PathBuf,
}

impl MpirunCommand {
    /// Returns the arguments of `mpirun`.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let hosts: Vec<_> = self.layout.hosts.iter().map(|(host, ranks)| format!("{host}:{ranks}")).collect();
        let mut line = vec!["--host".to_owned(), hosts.join(",")];
        let mut add = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-np", &self.layout.world().to_string(), "--map-by", "slot", "--bind-to", "none"]);
        if self.oversubscribe {
            add(&["--oversubscribe"]);
        }
        if self.is_root {
            add(&["--allow-run-as-root"]);
        }
        add(&["--mca", "ras", ALLOCATORS]);
        add(&["--mca", "odls_base_sigkill_timeout", &self.grace_seconds.to_string()]);
        let others = self.layout.hosts.iter().map(|(host, _)| host.as_str()).filter(|host| !is_this_host(host));
        let remote = self.remote_start.options(&others.collect::<Vec<_>>());
        add(&remote.iter().map(String::as_str).collect::<Vec<_>>());
        if self.layout.hosts.iter().any(|(host, _)| has_domain(host)) {
            add(&["--mca", "orte_keep_fqdn_hostnames", "1"]);
        }
        if let Some(interfaces) = &self.interfaces {
            add(&["--mca", "oob_tcp_if_include", interfaces, "--mca", "btl_tcp_if_include", interfaces]);
        }
        for (name, _) in &self.variables {
            add(&["-x", name]);
        }
        for option in &self.options {
            add(&option.split_whitespace().collect::<Vec<_>>());
        }
        add(&[&self.program.to_string_lossy()]);
        line.extend(self.arguments.iter().cloned());
        line
    }

    /// Returns the command with the variables set. It inherits the rest of the environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.mpirun);
        command.args(self.arguments()).envs(self.environment());
        command
    }

    /// Returns the variables that are set for `mpirun` besides the environment of this process.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        self.variables.iter().cloned().chain(self.remote_start.variables()).collect()
    }

    /// Returns the command as a line for a shell. It contains no secret.
    #[must_use]
    pub fn shell_line(&self) -> String {
        let words = std::iter::once(self.mpirun.to_string_lossy().into_owned()).chain(self.arguments());
        words.map(|word| quoted(&masked_argument(&word))).collect::<Vec<_>>().join(" ")
    }

    /// Returns the text of `--dry-run`: the places of the ranks, the line, and every variable that is passed.
    #[must_use]
    pub fn dry_run(&self) -> String {
        let mut text = format!("{}\n{}\n", self.layout.table(), self.shell_line());
        if self.is_root {
            text += "\nThis is root: --allow-run-as-root tells Open MPI that it is meant.\n";
        }
        if self.variables.is_empty() {
            text += "\nNo variable is passed on.\n";
            return text;
        }
        text += "\nVariables that every rank gets:\n";
        for (name, value) in &self.variables {
            let _ = writeln!(text, "  {name}={}", quoted(&masked(name, value)));
        }
        text
    }
}

/// Returns whether Open MPI would cut a host's name at the first dot.
fn has_domain(host: &str) -> bool {
    host.contains('.') && host.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::hosts::Host;

    fn plan(hosts: &[(&str, usize)], variables: &[(&str, &str)]) -> MpirunCommand {
        let hosts: Vec<_> =
            hosts.iter().map(|&(name, slots)| Host { name: name.to_owned(), slots, slots_given: true }).collect();
        let world = hosts.iter().map(|host| host.slots).sum();
        MpirunCommand {
            mpirun: "/usr/bin/mpirun".into(),
            layout: Layout::new(&hosts, world).unwrap(),
            program: "/opt/admiral-launch".into(),
            arguments: vec!["agent".to_owned()],
            variables: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            grace_seconds: 30,
            is_root: false,
            oversubscribe: false,
            interfaces: None,
            temporary_folder: "/tmp".into(),
            remote_start: RemoteStart::Agent,
            options: Vec::new(),
        }
    }

    #[test]
    fn the_command_line_of_mpirun() {
        let mut plan = plan(&[("n0", 8), ("n1", 8)], &[("AWS_SECRET_ACCESS_KEY", "hush"), ("RUST_LOG", "a b")]);
        assert_eq!(
            plan.shell_line(),
            "/usr/bin/mpirun --host n0:8,n1:8 -np 16 --map-by slot --bind-to none --mca ras ^slurm,tm,lsf,gridengine \
             --mca odls_base_sigkill_timeout 30 -x AWS_SECRET_ACCESS_KEY -x RUST_LOG /opt/admiral-launch agent"
        );
        plan.is_root = true;
        plan.oversubscribe = true;
        plan.interfaces = Some("eth0".to_owned());
        plan.options = vec!["--mca btl self,tcp".to_owned()];
        let shown = plan.shell_line();
        for part in [
            " --oversubscribe --allow-run-as-root ",
            " --mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 ",
            " --mca btl self,tcp /opt/",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn in_a_job_of_slurm_srun_is_told_the_hosts() {
        let of = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            RemoteStart::of(&Environment::new(variables))
        };
        assert_eq!(of(&[("HOME", "/root")]), RemoteStart::Agent);
        let mut plan = plan(&[("localhost", 8), ("n1", 8), ("n2", 8)], &[]);
        assert!(!plan.shell_line().contains("nodelist"));
        plan.remote_start = of(&[("SLURM_JOB_ID", "7")]);
        assert!(plan.shell_line().contains(" --mca plm_slurm_args --nodelist=n1,n2 "), "{}", plan.shell_line());
        assert!(plan.environment().contains(&("SLURM_OVERLAP".to_owned(), "1".to_owned())));
        plan.remote_start = of(&[("SLURM_JOBID", "7"), ("OMPI_MCA_plm_slurm_args", "--mem=0")]);
        assert!(
            plan.shell_line().contains(" --mca plm_slurm_args '--mem=0 --nodelist=n1,n2' "),
            "{}",
            plan.shell_line()
        );
        plan.remote_start = of(&[("PBS_JOBID", "7")]);
        assert!(plan.shell_line().contains(" --mca plm ^tm "), "{}", plan.shell_line());
        assert_eq!(of(&[("PBS_JOBID", "7"), ("OMPI_MCA_plm", "rsh")]), RemoteStart::Agent);
    }

    #[test]
    fn secrets_are_not_shown() {
        let plan =
            plan(&[("n0", 1)], &[("AWS_SECRET_ACCESS_KEY", "hush"), ("HTTPS_PROXY", "http://me:hush@proxy:1/x")]);
        let text = plan.dry_run();
        assert!(!text.contains("hush"), "{text}");
        assert!(text.contains("  AWS_SECRET_ACCESS_KEY='(secret, not shown)'\n"), "{text}");
        assert!(text.contains("@proxy:1/x"), "{text}");
        let command = plan.command();
        assert!(command.get_args().all(|word| !word.to_string_lossy().contains("hush")));
        assert!(command.get_envs().any(|(name, value)| name == "AWS_SECRET_ACCESS_KEY" && value.unwrap() == "hush"));
    }

    #[test]
    fn host_names_with_domains_are_kept() {
        let keeps = |host| plan(&[(host, 1)], &[]).shell_line().contains("orte_keep_fqdn_hostnames 1");
        assert!(keeps("n0.example.org") && !keeps("n0") && !keeps("10.0.0.1"));
    }

    #[test]
    fn variables_are_chosen_by_name() {
        let environment = || {
            [
                "AWS_REGION",
                "AZURE_CLIENT_ID",
                "GOOGLE_BASE_URL",
                "HOME",
                "NCCL_DEBUG",
                "OMPI_MCA_x",
                "LD_LIBRARY_PATH",
                "MINE",
                "ADMIRAL_LEDGER",
                "no_proxy",
            ]
            .map(|name| (name.to_owned(), "1".to_owned()))
        };
        let names = |pass: &[&str]| {
            let pass: Vec<_> = pass.iter().map(|&name| name.to_owned()).collect();
            passed_variables(environment(), &pass)
                .map(|passed| passed.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            names(&[]).unwrap(),
            "AWS_REGION AZURE_CLIENT_ID GOOGLE_BASE_URL LD_LIBRARY_PATH NCCL_DEBUG no_proxy"
        );
        assert_eq!(
            names(&["MINE"]).unwrap(),
            "AWS_REGION AZURE_CLIENT_ID GOOGLE_BASE_URL LD_LIBRARY_PATH MINE NCCL_DEBUG no_proxy"
        );
        assert!(names(&["YOURS"]).unwrap_err().to_string().contains("--pass YOURS"));
        assert!(matches!(names(&["MINE=2"]), Err(MpirunError::NoName(_))));
    }

    #[test]
    fn mpirun_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mpirun");
        let folders = format!("/nowhere:relative:{}", folder.path().display());
        assert!(find_mpirun(None, &folders).unwrap_err().to_string().contains("openmpi-bin"));
        std::fs::write(&path, "").unwrap();
        assert!(matches!(find_mpirun(Some(&path), ""), Err(MpirunError::NotAProgram { .. })));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_mpirun(None, &folders).unwrap(), path);
        assert_eq!(find_mpirun(Some(&path), "").unwrap(), path);
    }
}
