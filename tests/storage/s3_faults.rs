//! Runs whose S3 server fails in every way that networks and busy servers do. A run ends well, with the checkpoints of a
//! run that nothing disturbed; or it ends with exit code 69 and one message that names the place, what was tried and
//! why it failed. No checkpoint is ever less than whole, and no run hangs.

use std::process::Command;
use std::time::Duration;

use admiral_checkpoint::Catalog;

use crate::mpirun::{Finished, Running, run};
use crate::proxy::{Action, FaultProxy, Rule, When};
use crate::runs::{PATIENCE, Place, assert_same, errors, wait_until};
use crate::s3::{S3, environment};
use crate::stores::{Tensors, on_s3, tensors, verified_steps};

/// Steps of a run; every second is saved.
const STEPS: u64 = 6;

/// Seconds for a save in runs that are to give up: what works must still be done in them on a machine that is busy.
const SHORT: u64 = 8;

/// Not the credentials' time, not a server that is busy: what no repetition mends.
const DENIED: Action = Action::Refuse { status: 403, code: "ExpiredToken" };

/// A server with the proxy before it, and the runs that use them.
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

    /// A run to `s3://bucket/NAME` that gives a save `deadline` seconds.
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

    /// The place of a run, around the proxy.
    fn store(&self, name: &str) -> Catalog {
        on_s3(self.s3.port, name)
    }

    /// How many uploads nobody has ended.
    fn uploads(&self, name: &str) -> usize {
        self.s3.request(&format!("GET /bucket?uploads&prefix={name}/")).matches("<UploadId>").count()
    }

    /// The steps that are published, all of them whole.
    fn published(&self, name: &str) -> Vec<u64> {
        verified_steps(&self.store(name))
    }

    fn assert_ended_well(&self, name: &str, finished: &Finished) {
        assert_eq!((finished.code, errors(finished).len()), (Some(0), 0), "{name}: {}", finished.stderr);
        assert_same(&self.undisturbed, &tensors(&self.store(name), STEPS));
    }

    /// Ended with 69 and one message, with all of `parts` in it and the place.
    fn assert_gave_up(&self, name: &str, finished: &Finished, parts: &[&str]) {
        assert_eq!((finished.code, errors(finished).len()), (Some(69), 1), "{name}: {}", finished.stderr);
        for part in parts.iter().copied().chain([format!("s3://bucket/{name}").as_str()]) {
            assert!(errors(finished)[0].contains(part), "{name}: no {part:?} in {}", errors(finished)[0]);
        }
    }

    /// Under these rules from the beginning to the end a run ends well, with all its checkpoints.
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

/// About one request of five is struck; the same request, sent again, hardly ever by as many rules as it is sent times.
fn storm(turn: usize) -> Vec<Rule> {
    const PRIMES: [u64; 9] = [19, 23, 29, 31, 37, 41, 43, 47, 53];
    let some = |action, i: usize| Rule::new(action).when(When::Every(PRIMES[(i + 4 * turn) % PRIMES.len()]));
    // Of completions there are few.
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
fn what_passes_is_survived() {
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
fn what_was_done_and_not_answered_is_survived() {
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

#[test]
fn an_upload_that_nobody_knows_of_is_aborted_by_the_next_run() {
    for ranks in [1, 2] {
        let stage = Stage::new(ranks);
        // Begun, and the answer with its name got lost.
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
}

#[test]
fn two_ranks_survive_a_storm() {
    let stage = Stage::new(2);
    for turn in 0..3 {
        stage.survives(&format!("storm-{turn}"), storm(turn));
    }
}

#[test]
fn a_place_that_cannot_be_used_ends_the_run_at_its_start() {
    for ranks in [1, 2] {
        let stage = Stage::new(ranks);
        let cases = [
            ("denied", DENIED, "ExpiredToken"),
            ("expired", Action::EXPIRED_TOKEN, "ExpiredToken"),
            ("down", Action::INTERNAL_ERROR, "500"),
            ("silent", Action::Stall, "no answer within"),
        ];
        // Several ranks must end together; of what they say one case tells as much as all.
        for (name, action, cause) in cases.into_iter().take(if ranks == 1 { 4 } else { 1 }) {
            stage.proxy.set_rules(vec![Rule::new(action)]);
            let finished = stage.ends(&mut stage.train(name, SHORT, &[]));
            stage.assert_gave_up(name, &finished, &["cannot ", cause]);
        }
        stage.proxy.set_rules(vec![]);
        // It can be read and not written: the trial save finds out.
        stage.proxy.set_rules(vec![Rule::new(DENIED).method("POST")]);
        let finished = stage.ends(&mut stage.train("read-only", SHORT, &[]));
        stage.assert_gave_up("read-only", &finished, &["cannot write", "trial-", "ExpiredToken"]);
        let nobody = stage.train("nobody", SHORT, &[]).envs(environment(unused_port())).output().unwrap();
        let text = String::from_utf8_lossy(&nobody.stderr);
        assert_eq!(nobody.status.code(), Some(69), "{text}");
        for name in ["denied", "expired", "down", "silent", "read-only"] {
            assert_eq!(stage.published(name), [0u64; 0], "{name}");
        }
    }
}

fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_save_that_fails_is_told_and_counted_and_the_run_goes_on() {
    for ranks in [1, 2] {
        let stage = Stage::new(ranks);
        // In each phase: a rank's file, the manifest.
        for (name, path, operation) in [
            ("file", "step-000000004/adam-mean/", "cannot write"),
            ("manifest", "step-000000004/manifest.json", "cannot write"),
        ] {
            stage.proxy.set_rules(vec![Rule::new(DENIED).path(path).method(if name == "file" {
                "POST"
            } else {
                "PUT"
            })]);
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
}

#[test]
fn a_save_that_is_due_while_a_failed_one_is_taken_back_is_no_failure() {
    let stage = Stage::new(2);
    // Rank 0 fails at once, while rank 1 still sends; what it has sent is taken back slowly.
    let (first, second) = ("step-000000004/adam-mean/model-00001", "step-000000004/adam-mean/model-00002");
    stage.proxy.set_rules(vec![
        Rule::new(DENIED).path(first),
        Rule::new(Action::Stall).path(second).method("PUT"),
        Rule::new(Action::Stall).path(second).method("DELETE"),
    ]);
    // Due saves wait, or are left out but for the last, for which the run waits in any case.
    for (when_busy, published) in [("wait", vec![8, 12, 14]), ("skip", vec![14])] {
        let when = format!("checkpoint.when_busy={when_busy}");
        let fields = ["--set", &when, "--set", "training.steps=14", "--set", "training.save_interval=4"];
        let finished = stage.ends(&mut stage.train(when_busy, 60, &fields));
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(" failed: ")).collect();
        assert!(told.len() == 1 && told[0].contains("save of step 4"), "{}", finished.stderr);
        assert!(told[0].contains("ExpiredToken"), "{}", finished.stderr);
        assert!(finished.stderr.contains("still being taken back"), "{}", finished.stderr);
        assert_eq!(stage.published(when_busy), published, "{}", finished.stderr);
    }
}

#[test]
fn a_place_that_is_lost_ends_the_run_and_another_goes_on() {
    let endless = ["--set", "training.steps=100000"];
    for (ranks, name, action, cause) in [
        (1, "denied", Some(DENIED), "ExpiredToken"),
        (2, "denied", Some(DENIED), "ExpiredToken"),
        (1, "silent", Some(Action::Stall), ""),
        (2, "silent", Some(Action::Stall), ""),
        (1, "gone", None, ""),
    ] {
        let mut stage = Stage::new(ranks);
        // A store that refuses says so at once.
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

        // What is published is whole, and the end is that of a run that lost nothing.
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
}

#[test]
fn what_cannot_be_read_now_is_not_damaged() {
    for ranks in [1, 2] {
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
        // And what comes at the second or third try is as good as any.
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
}

#[test]
fn a_checkpoint_that_is_damaged_on_its_way_ends_the_run_and_another_goes_on() {
    for ranks in [1, 2] {
        let stage = Stage::new(ranks);
        // The one checkpoint that is read back, because one before it may go: the last, which nothing comes after. Of
        // two ranks the second finds it.
        let file = format!("step-000000006/master/model-0000{ranks}-of-0000{ranks}.safetensors");
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
}

#[test]
fn a_bit_that_is_lost_on_the_way_back_is_no_damage() {
    let stage = Stage::new(1);
    let once = || vec![Rule::new(Action::FlipAnswer).method("GET").path(".safetensors").when(When::Nth(1))];
    let keep = ["--set", "checkpoint.keep_last=1"];
    // When the second checkpoint is read back, so that the first may go; and when it is resumed from.
    for more in [&["--set", "training.steps=4"][..], &["--resume", "auto"]] {
        let before = stage.proxy.faults();
        stage.proxy.set_rules(once());
        let finished = stage.ends(&mut stage.train("run", 60, &[&keep, more].concat()));
        assert_eq!((finished.code, stage.proxy.faults()), (Some(0), before + 1), "{}", finished.stderr);
        assert!(!finished.stderr.contains("damaged"), "{}", finished.stderr);
    }
    assert_same(&stage.undisturbed, &tensors(&stage.store("run"), STEPS));
    // The one that was resumed from stays.
    assert_eq!(stage.published("run"), [4, 6]);
}

#[test]
fn a_save_that_is_due_while_another_is_under_way_is_left_out_and_told() {
    for ranks in [1, 2] {
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
}
