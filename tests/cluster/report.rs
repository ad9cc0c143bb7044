//! Reports and notifications of a real run with an incident, and the report in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bed::{self, incidents};
use crate::mpirun::{Finished, run};
use crate::runs::Place;

/// Returns the browser, or says that the test is skipped.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found =
        names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: the report is not opened in a browser, because there is no chromium; see ci/setup test");
    }
    found
}

/// Opens a page. Returns the page as the browser understands it, and the messages of its console.
fn open(browser: &Path, page: &Path) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    // The browser's own requests go nowhere.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND");
    command.args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(format!("file://{}", page.display()));
    let finished = run(&mut command, bed::PATIENCE);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let messages = finished.stderr.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    (finished.stdout, messages)
}

fn launcher(arguments: &[&str]) -> Finished {
    run(Command::new(bed::launcher()).args(arguments), bed::PATIENCE)
}

/// Trains 20 steps on two ranks of this machine, of which one is killed in step 12. Each notification becomes a line.
fn trained(place: &Place, notifications: &Path) -> Finished {
    let config = place.path("tiny.yaml");
    let folder = format!("run.folder={}", place.path("run").display());
    let fields = [
        folder.as_str(),
        "training.microbatch=4",
        "training.save_interval=5",
        "training.sample_interval=5",
        "faults.enabled=true",
        "faults.kill_rank=1",
        "faults.at_step=12",
    ];
    let notify = format!("(cat; echo) >> {}", notifications.display());
    let mut command = Command::new(bed::launcher());
    command.arg("run").arg(config).args(["--np", "2", "--no-preflight", "--base-delay-seconds", "0.1"]);
    command.args(["--notify", &notify]).args(fields.iter().flat_map(|field| ["--set", field]));
    run(&mut command, bed::PATIENCE)
}

#[test]
fn people_are_told_of_an_incident_and_the_report_shows_it() {
    let place = Place::new();
    let (lines, page) = (place.path("notifications"), place.path("report.html"));
    let finished = trained(&place, &lines);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);

    let text = std::fs::read_to_string(lines).unwrap();
    let told: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = told.iter().map(|value| value["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["incident", "recovery", "end"], "{text}");
    let verdict = incidents(&place.path("run"))[0]["verdict"].as_str().unwrap().to_owned();
    assert_eq!((&told[0]["incident"]["verdict"], &told[0]["incident"]["rank"]), (&verdict.clone().into(), &1.into()));
    assert_eq!(
        (&told[1]["attempt"], &told[2]["outcome"], &told[2]["step"]),
        (&1.into(), &"finished".into(), &20.into())
    );

    // What others wrote must not become a part of the page.
    let log = place.path("run/launch/incidents/001/failure.json");
    let hostile = "</pre><script>document.title = 'taken'</script><img src=http://127.0.0.1:9/x>";
    let mut failure: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    failure["last_lines"].as_array_mut().unwrap().push(hostile.into());
    std::fs::write(&log, serde_json::to_vec(&failure).unwrap()).unwrap();

    let run = place.path("run").display().to_string();
    let written = launcher(&["report", &run, "--out", page.to_str().unwrap()]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains(&verdict) && !html.contains("<script") && html.contains("&lt;script"), "{html}");
    assert_eq!(html.matches("Missing: ").count(), 0, "{html}");
    for part in
        ["aria-label=\"loss by step\"", "aria-label=\"time line\"", "alt=\"samples of step 20\"", "save_interval: 5"]
    {
        assert!(html.contains(part), "{part}");
    }

    let status = launcher(&["status", &run]);
    assert!(status.stdout.contains("goodput ") && status.stdout.contains("disk "), "{}", status.stdout);
    assert!(status.stdout.contains(&verdict), "{}", status.stdout);

    let Some(browser) = browser() else { return };
    let (shown, messages) = open(&browser, &page);
    assert_eq!(messages, Vec::<String>::new());
    assert!(shown.contains("<title>run - Admiral</title>") && shown.contains("class=\"timeline\""), "{shown}");
    let sources = shown.split(" src=\"").skip(1).chain(shown.split(" href=\"").skip(1));
    for source in sources {
        assert!(source.starts_with("data:") || source.starts_with('#'), "{}", &source[..source.len().min(80)]);
    }
    // The browser would tell of a request and of a script.
    let control = html.replace("</main>", "<img src=\"http://127.0.0.1:9/x\"><script>1</script></main>");
    let page = place.path("control.html");
    std::fs::write(&page, control).unwrap();
    assert_eq!(open(&browser, &page).1.len(), 2, "one message for each");
}
