//! Checks of the GPUs: enough, of one model, healthy, and free.

use super::answer::{Answer, Needs, usable_gpus};
use super::finding::{Finding, Severity, abbreviated};
use super::majority::deviations;
use crate::doctor::probe::{Gpu, GpuState};

/// Memory in MiB that the driver itself may use.
const DRIVER_MEMORY_MIB: u64 = 1024;

pub(super) fn compare(needs: &Needs, answers: &[Answer], findings: &mut Vec<Finding>) {
    let has_any =
        |answer: &Answer| answer.probe.gpus.as_ref().is_some_and(|gpus| gpus.as_ref() != Ok(&GpuState::default()));
    if !needs.uses_gpus || !answers.iter().any(has_any) {
        if needs.requires_gpus && !answers.is_empty() {
            let hosts = answers.iter().map(|answer| answer.host.name.clone()).collect();
            let remedy = "install the NVIDIA driver (nvidia-smi must be in PATH), name hosts that have it, or train on \
                          processors: --set run.device=cpu";
            let what = "run.device is cuda, and no host has a GPU";
            findings.push(Finding::among(hosts, Severity::Bad, what, remedy));
        }
        return;
    }
    for answer in answers {
        number(needs, answer, findings);
        if let Some(Ok(state)) = &answer.probe.gpus {
            health(answer, state, findings);
            memory(answer, state, answer.ranks(needs), findings);
        }
    }
    let of = |get: fn(&Gpu) -> &String| {
        let gpu = |answer: &'_ Answer| -> Option<_> {
            let Some(Ok(state)) = &answer.probe.gpus else { return None };
            Some((answer.host.name.clone(), get(state.gpus.first()?).clone()))
        };
        answers.iter().filter_map(gpu).collect::<Vec<_>>()
    };
    let mut warn = |values: &[(String, String)], name: &str, remedy: &str| {
        let Some(deviation) = deviations(values.iter().map(|(host, value)| (host.as_str(), value))) else { return };
        for (value, hosts) in deviation.others {
            let what =
                format!("{name} is {value}; on {} it is {}", abbreviated(&deviation.usual_hosts), deviation.usual);
            findings.push(Finding::among(hosts, Severity::Warning, what, remedy));
        }
    };
    warn(
        &of(|gpu| &gpu.driver),
        "the GPUs' driver",
        "install one driver on every host: NCCL is tested with equal ones",
    );
    warn(&of(|gpu| &gpu.name), "the GPUs' model", "the slowest GPU sets the pace of all; leave out the slower hosts");
}

fn number(needs: &Needs, answer: &Answer, findings: &mut Vec<Finding>) {
    let host = answer.host.name.as_str();
    if let Some(Err(reason)) = &answer.probe.gpus {
        let remedy = "the driver is ill; look at `dmesg | grep -i nvrm` there, and restart the host or leave it out";
        findings.push(Finding::of(host, Severity::Bad, reason, remedy));
        return;
    }
    let (slots, gpus) = (answer.ranks(needs), usable_gpus(&answer.probe).unwrap_or(0));
    if gpus >= slots {
        return;
    }
    let masked = answer.probe.environment.get("CUDA_VISIBLE_DEVICES");
    let masked = masked.map(|list| format!(" (CUDA_VISIBLE_DEVICES={list})")).unwrap_or_default();
    let what = match (&answer.probe.gpus, gpus) {
        (None, _) => format!("no NVIDIA driver, for {slots} ranks; other hosts have GPUs"),
        (_, gpus) => format!("{gpus} GPUs{masked} for {slots} ranks"),
    };
    let remedy = match gpus {
        0 => format!("leave {host} out, or install its driver (nvidia-smi must be in PATH)"),
        gpus => format!("write slots={gpus} for {host}, or leave it out"),
    };
    findings.push(Finding::of(host, Severity::Bad, what, remedy));
}

fn health(answer: &Answer, state: &GpuState, findings: &mut Vec<Finding>) {
    for gpu in &state.gpus {
        if let Some(errors @ 1..) = gpu.ecc_errors {
            let what = format!("GPU {} has {errors} memory errors that could not be corrected", gpu.index);
            let remedy =
                format!("leave {} out; reset the GPU, and have it replaced if they come again", answer.host.name);
            findings.push(Finding::of(&answer.host.name, Severity::Bad, what, remedy));
        }
    }
}

/// Finds memory in use on GPUs that ranks will use.
fn memory(answer: &Answer, state: &GpuState, ranks: usize, findings: &mut Vec<Finding>) {
    let host = answer.host.name.as_str();
    // The mapping of masked GPUs is not resolved; all GPUs are checked then.
    let is_masked = answer.probe.environment.contains_key("CUDA_VISIBLE_DEVICES");
    let used = state.gpus.iter().enumerate().filter(|&(place, _)| is_masked || place < ranks);
    for (_, gpu) in used {
        let taken = gpu.memory_mib.saturating_sub(gpu.free_mib);
        let severity = if taken > gpu.memory_mib / 4 { Severity::Bad } else { Severity::Warning };
        let room = format!("GPU {} has {} of {} MiB free", gpu.index, gpu.free_mib, gpu.memory_mib);
        let mut is_held = false;
        for holder in state.holders.iter().filter(|holder| holder.gpu == gpu.index) {
            is_held = true;
            let user = holder.user.as_deref().unwrap_or("somebody in another container");
            let mib = holder.mib.map(|mib| format!("{mib} MiB")).unwrap_or_else(|| "memory".into());
            let launch = holder.launch_id.as_ref().map(|id| format!(", left from launch {id}")).unwrap_or_default();
            let what = format!("{room}: process {} ({}) of {user}{launch} holds {mib}", holder.pid, holder.program);
            let remedy =
                format!("end it (on {host}: kill {0}; if it stays, kill -9 {0}), or leave the host out", holder.pid);
            findings.push(Finding::of(host, severity, what, remedy));
        }
        if !is_held && taken > DRIVER_MEMORY_MIB.max(gpu.memory_mib / 20) {
            let what = format!("{room}: no process that can be seen here holds the rest");
            let remedy = format!(
                "look for processes in containers, and for dead ones that wait for their parent; nvidia-smi \
                 --gpu-reset -i {} frees it when nothing uses the GPU",
                gpu.index
            );
            findings.push(Finding::of(host, severity, what, remedy));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::checks::compare;
    use super::super::fixtures::{found, gpu, needs, one};
    use super::*;
    use crate::doctor::probe::Holder;

    fn state(answer: &mut Answer) -> &mut GpuState {
        answer.probe.gpus.as_mut().unwrap().as_mut().unwrap()
    }

    #[test]
    fn a_run_that_needs_gpus_fails_without_any() {
        for gpus in [None, Some(Ok(GpuState::default()))] {
            let mut answers = [0, 1].map(super::super::fixtures::good);
            answers.iter_mut().for_each(|answer| answer.probe.gpus = gpus.clone());
            assert_eq!(compare(&needs(), &answers), [], "it may do without");
            let findings = compare(&Needs { requires_gpus: true, ..needs() }, &answers);
            assert_eq!(one(&findings), ("n0 n1".into(), Severity::Bad, "run.device is cuda, and no host has a GPU"));
        }
    }

    #[test]
    fn fewer_gpus_than_slots_come_with_a_remedy() {
        let findings = found(2, |answers| state(&mut answers[1]).gpus.truncate(6));
        assert_eq!(one(&findings), ("n1".into(), Severity::Bad, "6 GPUs for 8 ranks"));
        assert_eq!(findings[0].remedy, "write slots=6 for n1, or leave it out");
        let findings = found(2, |answers| answers[1].probe.gpus = None);
        assert!(one(&findings).2.starts_with("no NVIDIA driver"));
    }

    #[test]
    fn without_a_number_of_slots_the_gpus_are_counted() {
        let findings = found(2, |answers| {
            answers[1].host.slots_given = false;
            state(&mut answers[1]).gpus.truncate(6);
            assert_eq!(answers[1].ranks(&needs()), 6);
        });
        assert_eq!(findings, []);
    }

    #[test]
    fn gpus_that_are_not_visible_do_not_count() {
        let hide = |list: &str| {
            let findings = found(1, |answers| {
                answers[0].probe.environment.insert("CUDA_VISIBLE_DEVICES".into(), list.into());
            });
            findings.into_iter().find(|finding| finding.severity == Severity::Bad).unwrap().what
        };
        assert_eq!(hide("0,1"), "2 GPUs (CUDA_VISIBLE_DEVICES=0,1) for 8 ranks");
        assert_eq!(hide(""), "0 GPUs (CUDA_VISIBLE_DEVICES=) for 8 ranks");
        assert_eq!(hide("3,-1,4"), "1 GPUs (CUDA_VISIBLE_DEVICES=3,-1,4) for 8 ranks");
    }

    #[test]
    fn processes_that_hold_gpu_memory_are_named() {
        let findings = found(2, |answers| {
            let state = state(&mut answers[1]);
            state.gpus[3].free_mib = 10_000;
            state.holders = vec![Holder {
                gpu: 3,
                mib: Some(70_000),
                pid: 4711,
                program: "python".into(),
                user: Some("ada".into()),
                launch_id: None,
            }];
        });
        let what = "GPU 3 has 10000 of 81559 MiB free: process 4711 (python) of ada holds 70000 MiB";
        assert_eq!(one(&findings), ("n1".into(), Severity::Bad, what));
        assert!(findings[0].remedy.contains("kill -9 4711"));
        let nobody = found(2, |answers| state(&mut answers[1]).gpus[3].free_mib = 70_000);
        assert!(one(&nobody).2.contains("no process that can be seen"));
        assert_eq!(nobody[0].severity, Severity::Warning);
    }

    #[test]
    fn a_gpu_that_no_rank_uses_may_be_busy() {
        let findings = found(1, |answers| {
            answers[0].host.slots = 2;
            state(&mut answers[0]).gpus[5].free_mib = 0;
        });
        assert_eq!(findings, []);
    }

    #[test]
    fn gpus_with_errors_are_bad() {
        let findings = found(2, |answers| state(&mut answers[0]).gpus[7].ecc_errors = Some(2));
        assert_eq!(one(&findings).1, Severity::Bad);
        assert!(one(&findings).2.starts_with("GPU 7 has 2 memory errors"));
    }

    #[test]
    fn different_drivers_and_models_are_found() {
        let findings = found(3, |answers| state(&mut answers[1]).gpus[0].driver = "535.1".into());
        let what = "the GPUs' driver is 535.1; on n0 and n2 it is 550.54.15";
        assert_eq!(one(&findings), ("n1".into(), Severity::Warning, what));
        let findings = found(3, |answers| {
            state(&mut answers[1]).gpus = (0..8).map(|i| Gpu { name: "V100".into(), ..gpu(i) }).collect()
        });
        assert_eq!(one(&findings).1, Severity::Warning);
    }

    #[test]
    fn a_run_on_cpus_ignores_gpus() {
        let mut answers: Vec<Answer> = (0..2).map(super::super::fixtures::good).collect();
        answers[1].probe.gpus = None;
        let needs = Needs { uses_gpus: false, ..needs() };
        assert_eq!(compare(&needs, &answers), []);
        for answer in &mut answers {
            answer.probe.gpus = None;
        }
        assert_eq!(compare(&super::super::fixtures::needs(), &answers), []);
    }
}
