//! Finds the hosts that the remote agent reaches: ssh, or the program of `plm_rsh_agent`.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::compare::{Finding, Severity};
use super::request::{ExamineRequest, is_local, seconds};
use crate::environment::REMOTE_AGENT_PARAMETER;
use crate::hosts::Source;

/// The timeout for one host. ssh itself gives up after [`CONNECT_SECONDS`].
const TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_SECONDS: u64 = 4;
/// The number of agents that run at the same time.
const MAX_CONCURRENT: usize = 64;
/// The output of a host that was reached, and of one that lacks a program.
const REACHED: &str = "admiral-reached";
const NO_LAUNCHER: &str = "admiral-no-launcher";
const NO_DAEMON: &str = "admiral-no-orted";

/// Returns a finding for each host on which `mpirun` could not start anything.
pub(super) async fn unreachable(request: &ExamineRequest) -> Vec<Finding> {
    let Some(agent) = agent(request, request.environment.remote_agent.clone()) else { return Vec::new() };
    // Without the options that only this check needs.
    let shown = agent.iter().take_while(|word| *word != "-o").cloned().collect::<Vec<_>>().join(" ");
    let script = script(&request.mpirun.program, &request.mpirun.mpirun);
    let turn = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let mut asked = JoinSet::new();
    for (place, host) in request.hosts.iter().enumerate().filter(|(_, host)| !is_local(host)) {
        let mut command = Command::new(&agent[0]);
        command.args(&agent[1..]).arg(&host.name).arg(&script);
        let (name, turn) = (host.name.clone(), Arc::clone(&turn));
        asked.spawn(async move {
            let _turn = turn.acquire().await;
            (place, name, ask(command).await)
        });
    }
    let mut findings = Vec::new();
    while let Some(Ok((place, name, answer))) = asked.join_next().await {
        if let Some(finding) = judge(&name, &shown, answer, request) {
            findings.push((place, finding));
        }
    }
    findings.sort_by_key(|&(place, _)| place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// Returns the agent's command; `None` if a scheduler starts processes instead.
fn agent(request: &ExamineRequest, from_environment: Option<String>) -> Option<Vec<String>> {
    let options: Vec<&str> = request.mpirun.options.iter().flat_map(|option| option.split_whitespace()).collect();
    let named = options
        .windows(2)
        .find(|pair| pair[0] == REMOTE_AGENT_PARAMETER)
        .map(|pair| pair[1].to_owned())
        .or(from_environment);
    if named.is_none() && matches!(request.source, Source::Slurm | Source::Pbs | Source::Lsf | Source::GridEngine) {
        return None;
    }
    let named = named.unwrap_or_else(|| "ssh".to_owned());
    // Open MPI accepts a list such as "ssh : rsh", and uses the first program that exists.
    let first = named.split(':').next().unwrap_or(&named);
    let mut words: Vec<String> = first.split_whitespace().map(str::to_owned).collect();
    let program = words.first().cloned()?;
    if Path::new(&program).file_name().is_some_and(|name| name == "ssh") {
        words.extend(["-o".into(), "BatchMode=yes".into(), "-o".into(), format!("ConnectTimeout={CONNECT_SECONDS}")]);
    }
    Some(words)
}

/// Returns the command for the host, quoted for any shell, as `mpirun` does it.
fn script(launcher: &Path, mpirun: &Path) -> String {
    // mpirun is called by its absolute path, so that it looks for orted beside itself.
    let daemon = mpirun.with_file_name("orted");
    let (launcher, daemon) = (inner_quoted(launcher), inner_quoted(&daemon));
    let text =
        format!("echo {REACHED}; test -x {launcher} || echo {NO_LAUNCHER}; test -x {daemon} || echo {NO_DAEMON}");
    format!("sh -c '{text}'")
}

/// Quotes a path in double quotes, inside single quotes.
fn inner_quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for letter in path.to_string_lossy().chars() {
        match letter {
            '\'' => text += "'\\''",
            '"' | '\\' | '$' | '`' => text.extend(['\\', letter]),
            _ => text.push(letter),
        }
    }
    text + "\""
}

async fn ask(mut command: Command) -> Result<Output, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match timeout(TIMEOUT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", seconds(TIMEOUT))),
    }
}

fn judge(host: &str, agent: &str, answer: Result<Output, String>, request: &ExamineRequest) -> Option<Finding> {
    let bad = |what: String, remedy: String| Some(Finding::of(host, Severity::Bad, what, remedy));
    let said = answer.as_ref().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let has = |word: &str| said.lines().any(|line| line.trim() == word);
    if !has(REACHED) {
        let cause = match answer {
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                let line = error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
                format!("{} ({})", line.trim(), output.status)
            }
            Err(cause) => cause,
        };
        let remedy = remedy(host, agent, &cause);
        return bad(format!("it cannot be reached by {agent}: {cause}"), remedy);
    }
    if has(NO_LAUNCHER) {
        let path = request.mpirun.program.display();
        let remedy = "copy admiral-launch and admiral to the same path on every host, or keep them on a shared disk";
        return bad(format!("{path} is not there"), remedy.into());
    }
    if has(NO_DAEMON) {
        let path = request.mpirun.mpirun.with_file_name("orted");
        let remedy = "install the same Open MPI in the same place on every host";
        return bad(format!("Open MPI's daemon {} is not there", path.display()), remedy.into());
    }
    None
}

/// Returns a remedy for ssh's message.
fn remedy(host: &str, agent: &str, cause: &str) -> String {
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["Permission denied", "publickey"]) {
        format!("let `{agent} {host} true` work without a password: ssh-copy-id {host}")
    } else if says(&["Host key verification", "REMOTE HOST IDENTIFICATION"]) {
        format!("its key is not known, or another one: run `{agent} {host}` once by hand and look")
    } else if says(&["resolve hostname", "Name or service not known", "Temporary failure in name"]) {
        format!("nobody knows the name {host}: correct the hostfile, or add it to DNS or /etc/hosts")
    } else if says(&["os error 2", "No such file or directory (os"]) {
        format!(
            "{agent} itself is not there: install it (openssh-client), or name another with OMPI_MCA_{REMOTE_AGENT_PARAMETER}"
        )
    } else {
        format!("is it on, and does `{agent} {host} true` work? Else leave it out of the hosts")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::request::example as request;
    use super::*;

    #[test]
    fn the_remote_agent_is_that_of_mpirun() {
        let mut request = request(&["n0"]);
        let words = |request: &ExamineRequest, environment: Option<&str>| {
            agent(request, environment.map(str::to_owned)).map(|words| words.join(" "))
        };
        assert_eq!(words(&request, None).unwrap(), "ssh -o BatchMode=yes -o ConnectTimeout=4");
        assert_eq!(words(&request, Some("/bed/agent -q : rsh")).unwrap(), "/bed/agent -q");
        request.mpirun.options = vec!["--mca plm_rsh_agent /other".into()];
        assert_eq!(words(&request, Some("/bed/agent")).unwrap(), "/other");
        request.mpirun.options.clear();
        request.source = Source::Slurm;
        assert_eq!(words(&request, None), None);
        assert_eq!(words(&request, Some("/bed/agent")).unwrap(), "/bed/agent");
    }

    /// Runs the script as an agent does: the text after the host is a line for a shell.
    fn run(script: &str) -> Output {
        std::process::Command::new("sh").arg("-c").arg(script).output().unwrap()
    }

    #[test]
    fn missing_programs_of_a_host_are_found() {
        let mut request = request(&["n0"]);
        let verdict = |request: &ExamineRequest| {
            let output = run(&script(&request.mpirun.program, &request.mpirun.mpirun));
            judge("n0", "ssh", Ok(output), request).map(|finding| finding.what)
        };
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("it's \"$HOME\" `here`");
        std::fs::copy("/bin/true", &program).unwrap();
        request.mpirun.program.clone_from(&program);
        request.mpirun.mpirun = folder.path().join("mpirun");
        assert!(verdict(&request).unwrap().starts_with("Open MPI's daemon"));
        std::fs::copy("/bin/true", folder.path().join("orted")).unwrap();
        assert_eq!(verdict(&request), None);
        std::fs::remove_file(&program).unwrap();
        assert_eq!(verdict(&request).unwrap(), format!("{} is not there", program.display()));
    }

    #[test]
    fn ssh_errors_come_with_remedies() {
        let request = request(&["n0"]);
        let with = |line: &str| {
            let output = run(&format!("echo {line} >&2; exit 255"));
            judge("n0", "ssh", Ok(output), &request).unwrap()
        };
        let denied = with("'root@n0: Permission denied (publickey).'");
        assert_eq!(
            denied.what,
            "it cannot be reached by ssh: root@n0: Permission denied (publickey). (exit status: 255)"
        );
        assert!(denied.remedy.contains("ssh-copy-id n0"));
        assert!(with("'ssh: Could not resolve hostname n0: Name or service not known'").remedy.contains("/etc/hosts"));
        assert!(with("'ssh: connect to host n0 port 22: No route to host'").remedy.contains("is it on"));
        let late = judge("n0", "ssh", Err("no answer within 8 s".into()), &request).unwrap();
        assert!(late.what.ends_with("no answer within 8 s"));
    }

    #[tokio::test]
    async fn a_missing_remote_agent_is_named() {
        let mut request = request(&["n0.invalid"]);
        request.mpirun.options = vec!["--mca plm_rsh_agent /no/such/agent".into()];
        let findings = unreachable(&request).await;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].remedy.starts_with("/no/such/agent itself is not there"), "{findings:?}");
    }
}
