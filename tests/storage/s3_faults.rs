//! Runs with faults of the S3 server and of the network. A run either ends with the checkpoints of an undisturbed run,
//! or with exit code 69 and one message that names the location, the operation and the cause. No checkpoint is
//! incomplete, and no run hangs.

use std::process::Command;
use std::time::Duration;

use admiral_checkpoint::Catalog;

use crate::fault_proxy::{Action, FaultProxy, Rule, When};
use crate::mpirun::{Finished, Running, run};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};
use crate::s3::{S3, environment};
use crate::stores::{Tensors, on_s3, tensors, verified_steps};

/// The steps of a run. Every second step is saved.
const STEPS: u64 = 6;

/// The deadline in seconds of saves that are to fail. On a busy machine it must suffice for saves that succeed.
const SHORT: u64 = 8;

/// An error that no retry can fix.
pub const DENIED: Action = Action::Refuse { status: 403, code: "ExpiredToken" };

/// A server behind the proxy, and the runs that use it.
struct Stage {
    ranks: usize,
    place: Place,
    s3: S3,
    proxy: FaultProxy,
    undisturbed: Tensors,
}

impl Stage {
    fn new(ranks: usize) -> Self {
        let (place, s3) = (Place::new(), S3::start());
        let proxy = FaultProxy::start(s3.port);
        place.trained(ranks, "undisturbed", &["--set", "training.steps=6"]);
        let undisturbed = place.tensors("undisturbed", STEPS);
        Self { ranks, place, s3, proxy, undisturbed }
    }

    /// A run with checkpoints at `s3://bucket/NAME` and a deadline for saves in seconds.
    fn train(&self, name: &str, deadline: u64, arguments: &[&str]) -> Command {
        let mut command = self.place.train(self.ranks, name, &[]);
        for field in [
            &format!("checkpoint.url=s3://bucket/{name}"),
            &format!("checkpoint.deadline_seconds={deadline}"),
            &format!("training.steps={STEPS}"),
            "checkpoint.request_timeout_seconds=2",
            "checkpoint.max_failures=2",
            "training.save_interval=2",
        ] {
            command.args(["--set", field]);
        }
        command.args(arguments).envs(environment(self.proxy.port));
        command
    }

    fn ends(&self, command: &mut Command) -> Finished {
        let finished = run(command, PATIENCE);
        assert!(!finished.timed_out, "it hangs: {}", finished.stderr);
        finished
    }

    /// The checkpoints of a run, without the proxy.
    fn store(&self, name: &str) -> Catalog {
        on_s3(self.s3.port, name)
    }

    /// The number of unfinished uploads.
    fn uploads(&self, name: &str) -> usize {
        self.s3.request(&format!("GET /bucket?uploads&prefix={name}/")).matches("<UploadId>").count()
    }

    /// The published steps. Each checkpoint must be undamaged.
    fn published(&self, name: &str) -> Vec<u64> {
        verified_steps(&self.store(name))
    }

    fn assert_ended_well(&self, name: &str, finished: &Finished) {
        assert_eq!((finished.code, errors(finished).len()), (Some(0), 0), "{name}: {}", finished.stderr);
        assert_same(&self.undisturbed, &tensors(&self.store(name), STEPS));
    }

    /// Checks that a run has ended with 69 and one message that has all `parts` and the location.
    fn assert_gave_up(&self, name: &str, finished: &Finished, parts: &[&str]) {
        assert_eq!((finished.code, errors(finished).len()), (Some(69), 1), "{name}: {}", finished.stderr);
        for part in parts.iter().copied().chain([format!("s3://bucket/{name}").as_str()]) {
            assert!(errors(finished)[0].contains(part), "{name}: no {part:?} in {}", errors(finished)[0]);
        }
    }

    /// Checks that a run under these rules ends with code 0 and all checkpoints.
    fn survives(&self, name: &str, rules: Vec<Rule>) {
        let before = self.proxy.faults();
        self.proxy.set_rules(rules);
        let finished = self.ends(&mut self.train(name, 60, &[]));
        self.proxy.set_rules(vec![]);
        assert!(self.proxy.faults() > before, "{name}: no rule has hit");
        self.assert_ended_well(name, &finished);
        assert_eq!(self.published(name), [2, 4, 6], "{name}: {}", finished.stderr);
        assert_eq!(self.uploads(name), 0, "{name}");
    }
}

/// Rules that affect about one request in five. Retries of one request rarely fail every time.
pub fn storm(turn: usize) -> Vec<Rule> {
    const PRIMES: [u64; 9] = [19, 23, 29, 31, 37, 41, 43, 47, 53];
    let some = |action, i: usize| Rule::new(action).when(When::Every(PRIMES[(i + 4 * turn) % PRIMES.len()]));
    // Completions are few, so each rule affects a larger part of them.
    let completion = Rule::new(Action::ERROR_WITHIN_200).method("POST").query("uploadId=").when(When::Every(7));
    vec![
        some(Action::INTERNAL_ERROR, 0),
        some(Action::INTERNAL_ERROR, 1).method("PUT").done(),
        some(Action::SLOW_DOWN, 2),
        some(Action::Reset, 3),
        some(Action::Reset, 4).method("PUT").done(),
        some(Action::CutAnswer, 5).method("GET"),
        some(Action::CutRequest, 6).method("PUT"),
        completion,
        some(Action::Delay(Duration::from_millis(300)), 8),
    ]
}

#[test]
fn temporary_faults_are_survived() {
    let stage = Stage::new(1);
    stage.survives("errors", vec![Rule::new(Action::INTERNAL_ERROR).when(When::Every(3))]);
    stage.survives("errors-after", vec![Rule::new(Action::INTERNAL_ERROR).method("PUT").when(When::Every(5)).done()]);
    stage.survives("slow-down", vec![Rule::new(Action::SLOW_DOWN).when(When::Every(3))]);
    stage.survives("resets", vec![Rule::new(Action::Reset).when(When::Every(4))]);
    let cut = || Rule::new(Action::CutAnswer);
    let completions = cut().method("POST").query("uploadId=").when(When::Every(4));
    stage.survives("cut-answers", vec![cut().method("GET").when(When::Every(4)), completions]);
    stage.survives("cut-requests", vec![Rule::new(Action::CutRequest).method("PUT").when(When::Every(4))]);
    stage.survives("latency", vec![Rule::new(Action::Delay(Duration::from_millis(30)))]);
}

#[test]
fn requests_executed_without_an_answer_are_survived() {
    let stage = Stage::new(1);
    stage.survives("resets-after", vec![Rule::new(Action::Reset).method("PUT").when(When::Every(4)).done()]);
    stage
        .survives("deletions", vec![Rule::new(Action::Reset).method("POST").query("delete").when(When::Nth(1)).done()]);
    for (name, path) in [("manifest", "manifest.json"), ("pointer", "latest.json"), ("owner", "owner.json")] {
        let put = || Rule::new(Action::Reset).method("PUT").path(path).done();
        stage.survives(name, vec![put().when(When::Nth(1)), put().when(When::Nth(3))]);
    }
    let completion = |action| Rule::new(action).method("POST").query("uploadId=").when(When::Every(3));
    stage.survives("completions-fail", vec![completion(Action::ERROR_WITHIN_200)]);
    stage.survives("completions-fail-after", vec![completion(Action::ERROR_WITHIN_200).done()]);
    stage.survives("completions-reset-after", vec![completion(Action::Reset).done()]);
    let part = Rule::new(Action::Stall).method("PUT").query("partNumber=").when(When::Nth(4));
    let look = Rule::new(Action::Stall).method("GET").when(When::Nth(9));
    stage.survives("stalls", vec![part, look]);
}

fn an_upload_with_a_lost_id_is_aborted_by_the_next_run(ranks: usize) {
    let stage = Stage::new(ranks);
    // The upload starts, but the answer with its id is lost.
    let lost = Rule::new(Action::Reset).method("POST").query("uploads").path("step-").when(When::Every(3)).done();
    stage.proxy.set_rules(vec![lost]);
    let short = ["--set", "training.steps=4"];
    assert_eq!(stage.ends(&mut stage.train("run", 60, &short)).code, Some(0));
    assert!(stage.uploads("run") > 0);
    stage.proxy.set_rules(vec![]);
    let finished = stage.ends(&mut stage.train("run", 60, &["--resume", "latest"]));
    stage.assert_ended_well("run", &finished);
    assert_eq!(stage.uploads("run"), 0, "{}", finished.stderr);
}

#[test]
fn two_ranks_survive_a_storm() {
    let stage = Stage::new(2);
    for turn in 0..3 {
        stage.survives(&format!("storm-{turn}"), storm(turn));
    }
}

fn an_unusable_location_ends_the_run_at_its_start(ranks: usize) {
    let stage = Stage::new(ranks);
    let cases = [
        ("denied", DENIED, "ExpiredToken"),
        ("expired", Action::EXPIRED_TOKEN, "ExpiredToken"),
        ("down", Action::INTERNAL_ERROR, "500"),
        ("silent", Action::Stall, "no answer within"),
    ];
    // With several ranks, one case is enough to check that all end together.
    for (name, action, cause) in cases.into_iter().take(if ranks == 1 { 4 } else { 1 }) {
        stage.proxy.set_rules(vec![Rule::new(action)]);
        let finished = stage.ends(&mut stage.train(name, SHORT, &[]));
        stage.assert_gave_up(name, &finished, &["cannot ", cause]);
    }
    stage.proxy.set_rules(vec![]);
    // A location that can be read but not written is found by the write probe.
    stage.proxy.set_rules(["POST", "PUT"].map(|method| Rule::new(DENIED).method(method)).into());
    let finished = stage.ends(&mut stage.train("read-only", SHORT, &[]));
    stage.assert_gave_up("read-only", &finished, &["cannot write", "admiral-probe-", "ExpiredToken"]);
    // A server that does not know the condition would let two runs take the same lease.
    stage.proxy.set_rules(vec![Rule::new(Action::DropHeader("if-none-match")).method("PUT")]);
    let finished = stage.ends(&mut stage.train("unconditional", SHORT, &[]));
    assert_eq!((finished.code, errors(&finished).len()), (Some(64), 1), "{}", finished.stderr);
    assert!(errors(&finished)[0].contains("ignores If-None-Match"), "{}", finished.stderr);
    stage.proxy.set_rules(vec![]);
    let nobody = stage.train("nobody", SHORT, &[]).envs(environment(unused_port())).output().unwrap();
    let text = String::from_utf8_lossy(&nobody.stderr);
    assert_eq!(nobody.status.code(), Some(69), "{text}");
    for name in ["denied", "expired", "down", "silent", "read-only", "unconditional"] {
        assert_eq!(stage.published(name), [0u64; 0], "{name}");
    }
}

fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn a_failed_save_is_reported_and_counted_and_the_run_continues(ranks: usize) {
    let stage = Stage::new(ranks);
    // A failure of a rank's file, and of the manifest.
    for (name, path, operation) in [
        ("file", "step-000000004/adam-mean/", "cannot write"),
        ("manifest", "step-000000004/manifest.json", "cannot write"),
    ] {
        stage.proxy.set_rules(vec![Rule::new(DENIED).path(path).method(if name == "file" { "POST" } else { "PUT" })]);
        let finished = stage.ends(&mut stage.train(name, 60, &[]));
        stage.assert_ended_well(name, &finished);
        assert_eq!(stage.published(name), [2, 6], "{}", finished.stderr);
        let told: Vec<&str> =
            finished.stderr.lines().filter(|line| line.contains("the save of step 4 failed")).collect();
        let url = format!("s3://bucket/{name}/{path}");
        assert!(
            told.len() == 1 && [operation, &url, "ExpiredToken"].iter().all(|part| told[0].contains(part)),
            "{}",
            finished.stderr
        );
        let failures = stage.place.curve(name, "checkpoint/failures");
        assert_eq!(failures, [0.0, 1.0, 1.0], "at steps 2, 4 and 6");
    }
}

#[test]
fn a_save_due_while_a_failed_one_is_aborted_is_no_failure() {
    let stage = Stage::new(2);
    // Rank 0 fails at once, while rank 1 still uploads. Aborting that upload takes seconds. The next saves are due in that
    // time.
    let (first, second) = ("step-000000016/adam-mean/model-00001", "step-000000016/adam-mean/model-00002");
    stage.proxy.set_rules(vec![
        Rule::new(DENIED).path(first),
        Rule::new(Action::Stall).path(second).method("PUT"),
        Rule::new(Action::Stall).path(second).method("DELETE"),
    ]);
    // Due saves wait or are skipped, except the last one, for which the run always waits.
    for (when_busy, published) in [("wait", vec![32, 48, 56]), ("skip", vec![56])] {
        let when = format!("checkpoint.when_busy={when_busy}");
        let fields = ["--set", &when, "--set", "training.steps=56", "--set", "training.save_interval=16"];
        let finished = stage.ends(&mut stage.train(when_busy, 60, &fields));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(" failed: ")).collect();
        assert!(told.len() == 1 && told[0].contains("save of step 16"), "{}", finished.stderr);
        assert!(told[0].contains("ExpiredToken"), "{}", finished.stderr);
        // A save that waits learns of the failure first. One that is skipped may be due before, if training is fast.
        let is_told = finished.stderr.contains("still being taken back");
        let is_early = when_busy == "skip" && finished.stderr.contains("is still being written, so that of step 48");
        assert!(is_told || is_early, "{}", finished.stderr);
        assert_eq!(stage.published(when_busy), published, "{}", finished.stderr);
    }
}

/// A run whose location fails with `action`, or is gone. `cause` is in the message.
fn loses_its_location(ranks: usize, name: &str, action: Option<Action>, cause: &str) {
    let endless = ["--set", "training.steps=100000"];
    let mut stage = Stage::new(ranks);
    // A store that refuses fails at once.
    let deadline = if action == Some(DENIED) { 60 } else { 6 };
    let running = Running::start(&mut stage.train(name, deadline, &endless));
    wait_until("a checkpoint is published", || stage.store(name).latest().unwrap().is_some());
    match action {
        Some(action) => stage.proxy.set_rules(vec![Rule::new(action)]),
        None => stage.proxy = FaultProxy::start(stage.s3.port),
    }
    let finished = running.finish(PATIENCE);
    assert!(!finished.timed_out, "{name} hangs: {}", finished.stderr);
    stage.assert_gave_up(name, &finished, &["2 saves have failed in a row", "cannot ", cause]);

    // Published checkpoints are undamaged, and the end is that of an undisturbed run.
    stage.proxy.set_rules(vec![]);
    let newest = *stage.published(name).last().unwrap();
    let last = newest + 3;
    let steps = format!("training.steps={last}");
    let more = ["--set", &steps, "--resume", "auto"];
    let resumed = stage.ends(&mut stage.train(name, 60, &more));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    stage.place.trained(ranks, "as-long", &["--set", &steps, "--set", "training.save_interval=100000"]);
    assert_same(&stage.place.tensors("as-long", last), &tensors(&stage.store(name), last));
}

#[test]
fn a_run_whose_location_is_gone_ends_and_another_resumes() {
    loses_its_location(1, "gone", None, "");
}

fn a_run_that_is_denied_its_location_ends_and_another_resumes(ranks: usize) {
    loses_its_location(ranks, "denied", Some(DENIED), "ExpiredToken");
}

fn a_run_whose_location_is_silent_ends_and_another_resumes(ranks: usize) {
    loses_its_location(ranks, "silent", Some(Action::Stall), "");
}

fn an_unreadable_checkpoint_does_not_count_as_damaged(ranks: usize) {
    let stage = Stage::new(ranks);
    let short = ["--set", "training.steps=4"];
    assert_eq!(stage.ends(&mut stage.train("run", 60, &short)).code, Some(0));
    let read = |action| Rule::new(action).method("GET").path(".safetensors");
    for (action, cause) in [
        (Action::CutAnswer, ""),
        (Action::Reset, ""),
        (Action::INTERNAL_ERROR, "500"),
        (Action::Stall, "no answer within"),
        (DENIED, "ExpiredToken"),
    ] {
        if ranks > 1 && action != Action::CutAnswer {
            continue;
        }
        stage.proxy.set_rules(vec![read(action)]);
        let finished = stage.ends(&mut stage.train("run", SHORT, &["--resume", "auto"]));
        stage.assert_gave_up("run", &finished, &["cannot read", ".safetensors", cause]);
        assert_eq!(stage.published("run"), [2, 4], "nothing is set aside");
    }
    // A read that succeeds at the second or third try is enough.
    stage.proxy.set_rules(vec![
        read(Action::CutAnswer).when(When::Every(3)),
        read(Action::Reset).when(When::Every(4)),
        read(Action::INTERNAL_ERROR).when(When::Every(5)),
    ]);
    let finished = stage.ends(&mut stage.train("run", 60, &["--resume", "auto"]));
    stage.assert_ended_well("run", &finished);
    assert!(finished.stderr.contains("training steps 4 to 6"), "{}", finished.stderr);
    assert_eq!(stage.published("run"), [2, 4, 6]);
}

fn a_checkpoint_damaged_in_transit_ends_the_run_and_another_resumes(ranks: usize) {
    let stage = Stage::new(ranks);
    // Only the last checkpoint is read back, because only it allows the deletion of an earlier one. With two ranks,
    // the second rank finds the damage.
    let file = format!("step-000000006/master/model-0000{ranks}-of-0000{ranks}-");
    stage.proxy.set_rules(vec![Rule::new(Action::FlipRequest).method("PUT").path(&file)]);
    let keep = ["--set", "checkpoint.keep_last=2"];
    let finished = stage.ends(&mut stage.train("run", 60, &keep));
    let url = format!("s3://bucket/run/{file}");
    stage.assert_gave_up("run", &finished, &["2 saves have failed in a row", "damaged", &url, "its SHA-256 is"]);
    assert_eq!(finished.stderr.matches("the save of step 6 failed").count(), 1, "{}", finished.stderr);
    assert_eq!(stage.published("run"), [2, 4], "nothing is deleted before the newest is whole");

    stage.proxy.set_rules(vec![]);
    let finished = stage.ends(&mut stage.train("run", 60, &["--resume", "auto", keep[0], keep[1]]));
    stage.assert_ended_well("run", &finished);
    assert_eq!(stage.published("run"), [4, 6]);
}

#[test]
fn a_bit_flipped_in_an_answer_is_no_damage() {
    let stage = Stage::new(1);
    let once = || vec![Rule::new(Action::FlipAnswer).method("GET").path(".safetensors").when(When::Nth(1))];
    let keep = ["--set", "checkpoint.keep_last=1"];
    // While the second checkpoint is read back before the first is deleted, and while a run resumes from it.
    for more in [&["--set", "training.steps=4"][..], &["--resume", "auto"]] {
        let before = stage.proxy.faults();
        stage.proxy.set_rules(once());
        let finished = stage.ends(&mut stage.train("run", 60, &[&keep, more].concat()));
        assert_eq!((finished.code, stage.proxy.faults()), (Some(0), before + 1), "{}", finished.stderr);
        assert!(!finished.stderr.contains("damaged"), "{}", finished.stderr);
    }
    assert_same(&stage.undisturbed, &tensors(&stage.store("run"), STEPS));
    // The checkpoint that the run resumed from is kept.
    assert_eq!(stage.published("run"), [4, 6]);
}

fn a_save_due_during_another_is_skipped_and_reported(ranks: usize) {
    let stage = Stage::new(ranks);
    let slow = Rule::new(Action::Delay(Duration::from_millis(700))).path("step-000000001/");
    stage.proxy.set_rules(vec![slow]);
    let often = ["--set", "training.save_interval=1", "--set", "checkpoint.when_busy=skip"];
    let finished = stage.ends(&mut stage.train("run", 60, &often));
    stage.assert_ended_well("run", &finished);
    assert!(finished.stderr.contains("so that of step 2 is left out"), "{}", finished.stderr);
    let skipped = stage.place.curve("run", "checkpoint/skipped");
    assert_eq!(skipped, (1..=skipped.len()).map(|count| count as f64).collect::<Vec<_>>());
    let published = stage.published("run");
    assert_eq!(published.len() + skipped.len(), STEPS as usize, "{published:?}: {}", finished.stderr);
    assert!(published.starts_with(&[1]) && published.ends_with(&[STEPS]));
}

/// Runs tests with one rank and with two.
macro_rules! with_one_rank_and_two {
    ($($test:ident,)+) => {
        mod one_rank {
            $(#[test] fn $test() { super::$test(1); })+
        }
        mod two_ranks {
            $(#[test] fn $test() { super::$test(2); })+
        }
    };
}

with_one_rank_and_two! {
    an_upload_with_a_lost_id_is_aborted_by_the_next_run,
    an_unusable_location_ends_the_run_at_its_start,
    a_failed_save_is_reported_and_counted_and_the_run_continues,
    an_unreadable_checkpoint_does_not_count_as_damaged,
    a_checkpoint_damaged_in_transit_ends_the_run_and_another_resumes,
    a_save_due_during_another_is_skipped_and_reported,
    a_run_that_is_denied_its_location_ends_and_another_resumes,
    a_run_whose_location_is_silent_ends_and_another_resumes,
}
