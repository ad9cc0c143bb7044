//! The loop: start or resume, step, log, draw, save, stop.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use admiral_checkpoint::{Saver, Store};
use admiral_comm::{Collective, Ending, agree};
use admiral_data;
use admiral_comm::exit::ExitCode;
use admiral_comm::faults;
use admiral_comm::ledger::{self, Phase};
use crate::model::Task;
use admiral_telemetry::{Progress, Reading, TensorBoard, Terminal, write_file};

use super::TrainError;
use super::begin::{Resume, choose, open_saver, open_store};
use super::curves::{self, Curves};
use super::grid::draw_grid;
use super::plan_check::PlanCheck;
use super::rank_times::RankTimes;
use super::run_config::RunConfig;
use super::saving::Saves;
use super::session::Session;
use super::state::check_same_run;
use super::step::StepReport;
use super::stop::Stop;
use super::validation::Validation;

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
    faults::arm(&config.faults, collective.rank());
    // What can fail before the first step is agreed upon, so that one rank speaks and all leave with one code.
    let sources = agree(collective, data::open(&config.data, config.run.seed), |_| ExitCode::Config)?;
    let folder = PathBuf::from(&config.run.folder);
    // The folder is made last: what cannot run leaves nothing behind.
    let mut session = agree(collective, Session::open(config, sources, collective), TrainError::exit_code)?;
    let store = agree(collective, open_store(&session.config, &folder, collective.rank()), TrainError::exit_code)?;
    let start = choose(&store, resume, collective)?;
    if let Some(checkpoint) = &start.checkpoint {
        agree(collective, check_same_run(&session, checkpoint), TrainError::exit_code)?;
    }
    let last_step = session.config.training.steps;
    if start.step() >= last_step {
        // Whoever watches learns that there is nothing left, not that nothing was done.
        ledger::begin(start.step(), true, last_step, session.config.training.global_batch);
        ledger::enter(Phase::End, 0);
        if collective.rank() == 0 {
            tracing::info!("the run has its {last_step} steps already; nothing to do");
        }
        return Ok(Finish::Done);
    }
    let mut saver = agree(collective, open_saver(&session, &store, &start, collective), TrainError::exit_code)?;
    let planned_step = start.step();
    let is_resumed = start.checkpoint.is_some();
    agree(collective, start.restore(&mut session, &store, collective), TrainError::exit_code)?;
    let first_step = session.trainer.progress.step;
    if first_step != planned_step {
        let told = saver.resumed_from(first_step, collective);
        agree(collective, told, admiral_checkpoint::Error::exit_code)?;
    }
    ledger::begin(first_step, is_resumed, last_step, session.config.training.global_batch);
    agree(collective, write_config(&session.config, &folder, collective.rank()), TrainError::exit_code)?;
    // Late, because a run that has nothing to do, or cannot be restored, has no sums.
    session.join_gpus(collective)?;
    agree(collective, session.start_loader(last_step), TrainError::exit_code)?;
    let validation = agree(collective, Validation::open(&session, collective), TrainError::exit_code)?;
    let mut run = Loop::new(session, saver, validation, collective, terminal, &folder);
    run.announce(&store, first_step, last_step, started);
    let finish = run.train(stop, last_step).map_err(TrainError::ending)?;
    run.session.trainer.finish()?;
    ledger::enter(Phase::End, 0);
    Ok(finish)
}

fn folder_error(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Folder { path: path.display().to_string(), source }
}

/// Keeps the effective configuration beside what it made.
fn write_config(config: &RunConfig, folder: &Path, rank: usize) -> Result<(), TrainError> {
    if rank != 0 {
        return Ok(());
    }
    let path = folder.join("config.yaml");
    let text = admiral_config::show(config, &config.derived().unwrap_or_default());
    write_file(&path, text.as_bytes()).map_err(|source| folder_error(&path, source))
}

struct Loop<'a> {
    session: Session,
    saves: Saves,
    validation: Option<Validation>,
    collective: &'a dyn Collective,
    board: Rc<TensorBoard>,
    progress: Option<Progress>,
    curves: Curves,
    ranks: RankTimes,
    plan: Option<PlanCheck>,
}

impl<'a> Loop<'a> {
    fn new(
        session: Session,
        saver: Saver,
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
        let board = Rc::new(board);
        board.text("configuration", first_step, &format!("```yaml\n{}```", admiral_config::show(config, &[])));
        let interval = config.telemetry.progress_interval();
        let progress = is_root.then(|| Progress::new(terminal, config.training.steps, interval));
        let num_timesteps = session.trainer.objective.diffusion().num_timesteps();
        let curves = Curves::new(config.task, num_timesteps, Instant::now());
        let saves = Saves::new(saver, &config.checkpoint, Rc::clone(&board), collective);
        let ranks = RankTimes::default();
        let on_gpus = is_root && session.device().is_cuda();
        let plan = if on_gpus { PlanCheck::open(config, collective.world_size()) } else { None };
        Self { session, saves, validation, collective, board, progress, curves, ranks, plan }
    }

    fn announce(&self, store: &Store, first_step: u64, last_step: u64, started: Instant) {
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
            store.url(""),
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
            self.ranks.add(report.seconds);
            if let Some(line) = self.plan.as_mut().and_then(|plan| plan.add(report.seconds.step)) {
                tracing::info!("{line}");
            }
            self.curves.add(&report, training.global_batch, self.session.num_skipped_images);
            let is_last = step == last_step;
            if step.is_multiple_of(log) || is_last {
                self.log(&report)?;
            }
            self.validate(step)?;
            let pause = Instant::now();
            let polled = self.saves.poll(stop.is_asked(), self.collective)?;
            let is_asked = polled.is_asked;
            if sample > 0 && (step.is_multiple_of(sample) || is_last) && self.session.config.task != Task::Classifier {
                ledger::enter(Phase::Sample, 0);
                self.draw(step)?;
            }
            if is_last || is_asked {
                ledger::enter(Phase::Checkpoint, 0);
                self.saves.finish(&self.session, !is_last, self.collective)?;
            } else if step.is_multiple_of(save_interval) {
                ledger::enter(Phase::Checkpoint, 0);
                self.saves.begin(&self.session, polled, self.collective)?;
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
        if let Some(ranks) = self.ranks.take(self.collective, Instant::now())? {
            for (name, value) in ranks.scalars {
                self.board.scalar(&name, step, value);
            }
            if let Some(outlier) = ranks.outlier {
                tracing::warn!("{outlier}");
            }
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
