//! The loop: start or resume, step, log, draw, save, stop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::checkpoint::{self, Store};
use crate::collective::{Collective, Ending, agree, any};
use crate::data;
use crate::exit::ExitCode;
use crate::model::Task;
use crate::telemetry::{Progress, Reading, TensorBoard, Terminal, write_file};

use super::TrainError;
use super::curves::{self, Curves};
use super::grid::draw_grid;
use super::run_config::RunConfig;
use super::session::Session;
use super::state::{check_same_run, restore, save};
use super::step::StepReport;
use super::stop::Stop;
use super::validation::Validation;

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// At step 0, in a folder without checkpoints.
    Fresh,
    /// At the newest checkpoint; an error where there is none.
    Latest,
    /// At the newest checkpoint where there is one, else at step 0.
    Auto,
    /// At the checkpoint of this step.
    Step(u64),
}

impl std::str::FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Step).map_err(|_| "expected latest, auto or a step".into()),
        }
    }
}

/// How a run ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// All steps are done.
    Done,
    /// It was asked to stop and has written a checkpoint.
    Preempted,
}

impl Finish {
    /// What the rank exits with.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::Finished,
            Self::Preempted => ExitCode::Preempted,
        }
    }
}

/// Trains as the configuration says. Every rank calls it.
///
/// # Errors
/// How the ranks are to leave, with one message.
pub fn run(
    config: RunConfig,
    resume: Resume,
    collective: &dyn Collective,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<Finish, Ending> {
    let started = Instant::now();
    // What can fail before the first step is agreed upon, so that one rank speaks and all leave with one code.
    let sources = agree(collective, data::open(&config.data, config.run.seed), |_| ExitCode::Config)?;
    let folder = PathBuf::from(&config.run.folder);
    // The folder is made last: what cannot run leaves nothing behind.
    let mut session = agree(collective, Session::open(config, sources, collective), TrainError::exit_code)?;
    let store = agree(collective, open_store(&session.config, &folder), TrainError::exit_code)?;
    let step = agree(collective, choose_step(&store, resume), TrainError::exit_code)?;
    agree(collective, same_step(&all_steps(collective, step)?, &store.url("")), TrainError::exit_code)?;
    if let Some(step) = step {
        // Agreed upon one after another: reading is done together, and only when every rank can begin.
        let checkpoint = agree(collective, store.checkpoint(step), checkpoint::Error::exit_code)?;
        agree(collective, check_same_run(&session, &checkpoint), TrainError::exit_code)?;
        agree(collective, restore(&mut session, &checkpoint, collective), TrainError::exit_code)?;
    }
    let last_step = session.config.training.steps;
    let first_step = session.trainer.progress.step;
    if first_step >= last_step {
        if collective.rank() == 0 {
            tracing::info!("the run has its {last_step} steps already; nothing to do");
        }
        return Ok(Finish::Done);
    }
    agree(collective, checkpoint::probe(&store, collective), checkpoint::Error::exit_code)?;
    agree(collective, write_config(&session.config, &folder, collective.rank()), TrainError::exit_code)?;
    agree(collective, session.start_loader(last_step), TrainError::exit_code)?;
    let validation = agree(collective, Validation::open(&session, collective), TrainError::exit_code)?;
    let mut run = Loop::new(session, store, validation, collective, terminal, &folder);
    run.announce(first_step, last_step, started);
    run.train(stop, last_step).map_err(TrainError::ending)
}

fn open_store(config: &RunConfig, folder: &Path) -> Result<Store, TrainError> {
    std::fs::create_dir_all(folder).map_err(|source| folder_error(folder, source))?;
    Ok(Store::create(&config.checkpoint.location(folder)?)?)
}

fn folder_error(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Folder { path: path.display().to_string(), source }
}

/// The step of the checkpoint to begin with; none for step 0.
fn choose_step(store: &Store, resume: Resume) -> Result<Option<u64>, TrainError> {
    let newest = store.latest()?;
    match (resume, newest) {
        (Resume::Step(step), Some(newest)) if newest > step => Err(TrainError::Refused(format!(
            "{} has a later checkpoint, of step {newest}, which a run from step {step} would meet and may not \
             overwrite; move the later ones away, or copy the one of step {step} to another run.folder",
            store.url("")
        ))),
        (Resume::Step(step), _) => Ok(Some(step)),
        (Resume::Latest | Resume::Auto, Some(step)) => Ok(Some(step)),
        (Resume::Auto | Resume::Fresh, None) => Ok(None),
        (Resume::Latest, None) => Err(TrainError::Refused(format!(
            "there is no checkpoint in {} to resume from; start without --resume, or with --resume auto",
            store.url("")
        ))),
        (Resume::Fresh, Some(step)) => Err(TrainError::Refused(format!(
            "{} has checkpoints already, the newest of step {step}; go on with --resume latest, or choose another \
             run.folder",
            store.url("")
        ))),
    }
}

/// The step that each rank found to begin with.
fn all_steps(collective: &dyn Collective, step: Option<u64>) -> Result<Vec<Option<u64>>, Ending> {
    let bytes = step.map_or_else(Vec::new, |step| step.to_le_bytes().to_vec());
    let all = collective.all_gather(&bytes)?;
    Ok(all.iter().map(|bytes| bytes.as_slice().try_into().ok().map(u64::from_le_bytes)).collect())
}

/// Ranks that begin at different steps would wait for each other for ever.
fn same_step(steps: &[Option<u64>], url: &str) -> Result<(), TrainError> {
    let name = |step: Option<u64>| step.map_or_else(|| "no checkpoint".to_owned(), |step| format!("step {step}"));
    match steps.iter().position(|step| *step != steps[0]) {
        None => Ok(()),
        Some(rank) => Err(TrainError::Refused(format!(
            "in {url} rank 0 finds {}, rank {rank} {}; all hosts must see the same folder: share it, or set \
             checkpoint.url to one that they share",
            name(steps[0]),
            name(steps[rank])
        ))),
    }
}

/// Keeps the effective configuration beside what it made.
fn write_config(config: &RunConfig, folder: &Path, rank: usize) -> Result<(), TrainError> {
    if rank != 0 {
        return Ok(());
    }
    let path = folder.join("config.yaml");
    let text = crate::config::show(config, &config.derived().unwrap_or_default());
    write_file(&path, text.as_bytes()).map_err(|source| folder_error(&path, source))
}

struct Loop<'a> {
    session: Session,
    store: Store,
    validation: Option<Validation>,
    collective: &'a dyn Collective,
    board: TensorBoard,
    progress: Option<Progress>,
    curves: Curves,
}

impl<'a> Loop<'a> {
    fn new(
        session: Session,
        store: Store,
        validation: Option<Validation>,
        collective: &'a dyn Collective,
        terminal: &Terminal,
        folder: &Path,
    ) -> Self {
        let config = &session.config;
        let first_step = session.trainer.progress.step;
        let is_root = collective.rank() == 0;
        let board = match config.telemetry.event_folder(folder).filter(|_| is_root) {
            Some(folder) => TensorBoard::open(&folder, first_step + 1, config.telemetry.flush_interval()),
            None => TensorBoard::off(),
        };
        board.text("configuration", first_step, &format!("```yaml\n{}```", crate::config::show(config, &[])));
        let interval = config.telemetry.progress_interval();
        let progress = is_root.then(|| Progress::new(terminal, config.training.steps, interval));
        let num_timesteps = session.trainer.objective.diffusion().num_timesteps();
        let curves = Curves::new(config.task, num_timesteps, Instant::now());
        Self { session, store, validation, collective, board, progress, curves }
    }

    fn announce(&self, first_step: u64, last_step: u64, started: Instant) {
        if self.collective.rank() != 0 {
            return;
        }
        let config = &self.session.config;
        tracing::info!(
            parameters = self.session.trainer.memory.specs().num_elements(),
            ranks = self.collective.world_size(),
            device = ?self.session.device(),
            global_batch = config.training.global_batch,
            "training steps {first_step} to {last_step}; checkpoints go to {}; ready after {:.1} s",
            self.store.url(""),
            started.elapsed().as_secs_f64()
        );
    }

    fn train(&mut self, stop: &Stop, last_step: u64) -> Result<Finish, TrainError> {
        self.show_progress(None);
        loop {
            let report = self.session.step(self.collective)?;
            let step = self.session.trainer.progress.step;
            let training = &self.session.config.training;
            let (log, save_interval, sample) =
                (training.log_interval, training.save_interval, training.sample_interval);
            self.curves.add(&report, training.global_batch, self.session.num_skipped_images);
            let is_last = step == last_step;
            if step.is_multiple_of(log) || is_last {
                self.log(&report)?;
            }
            self.validate(step)?;
            let pause = Instant::now();
            let is_asked = any(self.collective, stop.is_asked())?;
            if sample > 0 && (step.is_multiple_of(sample) || is_last) && self.session.config.task != Task::Classifier {
                self.draw(step)?;
            }
            if step.is_multiple_of(save_interval) || is_last || is_asked {
                let saving = Instant::now();
                let manifest = save(&self.session, &self.store, self.collective)?;
                if self.collective.rank() == 0 {
                    let seconds = saving.elapsed().as_secs_f64();
                    tracing::info!("checkpoint of step {} published ({seconds:.2} s)", manifest.training.step);
                }
            }
            self.curves.skip_time(pause.elapsed());
            if is_last {
                return Ok(Finish::Done);
            }
            if is_asked {
                return Ok(Finish::Preempted);
            }
        }
    }

    fn log(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let summary = self.curves.take(self.collective, Instant::now())?;
        let step = self.session.trainer.progress.step;
        if self.collective.rank() == 0 {
            curves::write(&self.board, step, self.session.next_sample(), report, &summary);
            tracing::debug!(step, loss = summary.mean("loss"), "logged");
        }
        self.show_progress(Some(summary.mean("loss")));
        Ok(())
    }

    fn show_progress(&mut self, loss: Option<f64>) {
        let samples = self.session.next_sample();
        let progress = &self.session.trainer.progress;
        let is_scaled = progress.loss_scale != super::LossScale::Off;
        let lg_loss_scale = is_scaled.then(|| progress.loss_scale.lg());
        if let Some(line) = &mut self.progress {
            line.update(Instant::now(), Reading { step: progress.step, samples, loss, lg_loss_scale });
        }
    }

    fn validate(&mut self, step: u64) -> Result<(), TrainError> {
        let Some(validation) = &mut self.validation else { return Ok(()) };
        if !step.is_multiple_of(self.session.config.classifier.validation_interval) {
            return Ok(());
        }
        for (name, mean) in validation.measure(&self.session, self.collective)? {
            self.board.scalar(&format!("val_{name}"), step, mean);
        }
        Ok(())
    }

    fn draw(&mut self, step: u64) -> Result<(), TrainError> {
        if let Some(grid) = draw_grid(&self.session, self.collective)? {
            self.board.image("sample_grid", step, grid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_would_begin_apart_are_named() {
        assert!(same_step(&[Some(3), Some(3)], "x").is_ok() && same_step(&[None], "x").is_ok());
        let text = same_step(&[Some(3), Some(3), None], "x").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("rank 0 finds step 3, rank 2 no checkpoint"), "{text}");
    }
}
