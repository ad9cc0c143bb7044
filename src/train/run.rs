//! The training loop: starts or resumes a run, takes steps, logs, draws sample grids, saves, and stops.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use admiral_checkpoint::{Error as CheckpointError, Evaluation, Saver};
use admiral_comm::{Ending, ExitCode, Phase, agree, any, in_turns};
use admiral_data::{OnBrokenImage, Sources};
use admiral_goodput::Stage;
use admiral_storage::Store;
use admiral_telemetry::{Metric, MetricKind, MetricSink, MetricSinks, ProgressLine, TensorBoard, write_file};

use crate::context::{RankContext, RunContext};
use crate::model::Task;
use crate::run_config::RunConfig;
use crate::stop::Stop;

use super::accounting::Accounting;
use super::begin::{Resume, choose_checkpoint, open_saver, open_store};
use super::black_box::BlackBox;
use super::board;
use super::curves::{self, Curves};
use super::error::TrainError;
use super::evaluation::Evaluator;
use super::export::{Export, record_ranks};
use super::grid::draw_grid;
use super::loss_scale::LossScale;
use super::overflows::Overflows;
use super::plan_check::PlanCheck;
use super::quarantine::Quarantine;
use super::rank_times::RankTimes;
use super::same_images::{check_same_images, log_images};
use super::same_state::{can_compare, check_same_state};
use super::saving::Saves;
use super::session::{OpenedSession, Session};
use super::state::check_same_run;
use super::step::StepReport;
use super::validation::Validation;

/// How a run ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// All steps are done.
    Done,
    /// The run was asked to stop and has written a checkpoint.
    Preempted,
}

impl Finish {
    /// Returns the exit code of the rank.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::Finished,
            Self::Preempted => ExitCode::Preempted,
        }
    }
}

/// Opens the images, in turns, because an index may have to be made. Every rank calls it.
fn open_sources(config: &RunConfig, rank: &RankContext<'_>) -> Result<Sources, Ending> {
    // With the timeouts of the store of checkpoints.
    let stores = config.checkpoint.store_options(&rank.environment.clouds);
    let open = || admiral_data::open(&config.data, config.run.seed, &stores).map_err(TrainError::from);
    in_turns(rank.collective, open, TrainError::exit_code)
}

/// Trains as the configuration says. Every rank calls it.
///
/// # Errors
/// When the run cannot start or cannot continue. The [`Ending`] says whether the ranks leave together, and the message.
pub fn run(config: RunConfig, resume: Resume, rank: RankContext<'_>, stop: &Stop) -> Result<Finish, Ending> {
    let started = Instant::now();
    let collective = rank.collective;
    let mut accounting = Accounting::begin(collective.rank(), collective.world_size());
    // The ranks agree on everything that can fail before the first step: one rank prints the message, and all ranks
    // exit with the same code.
    let export = agree(collective, Export::open(&config, &rank), TrainError::exit_code)?;
    let sources = open_sources(&config, &rank)?;
    let images = agree(collective, check_same_images(&sources, collective), TrainError::exit_code)?;
    if collective.rank() == 0 {
        log_images(&sources);
    }
    accounting.stage(Stage::Data, None);
    let context = RunContext::open(rank, &config).map_err(TrainError::from);
    let context = agree(collective, context, TrainError::exit_code)?;
    context.log_kernels();
    accounting.has_gpus(context.device.is_cuda());
    let folder = PathBuf::from(&config.run.folder);
    let session = OpenedSession::open(config, sources, images, &context);
    let mut session = agree(collective, session, TrainError::exit_code)?;
    // The folder is created last: a run that cannot start leaves nothing behind.
    let store = agree(collective, open_store(&session.state.config, &folder, &context), TrainError::exit_code)?;
    let start = choose_checkpoint(&store, resume, collective)?;
    if let Some(checkpoint) = &start.checkpoint {
        agree(collective, check_same_run(&session.state, checkpoint), TrainError::exit_code)?;
    }
    let last_step = session.state.config.training.steps;
    let global_batch = session.state.config.training.global_batch;
    if start.step() >= last_step {
        // Tells the launcher that the run has finished, which differs from a run that never started.
        context.phases.begin(start.step(), true, last_step, global_batch);
        context.phases.enter(Phase::End, 0);
        if collective.rank() == 0 {
            tracing::info!("the run has its {last_step} steps already; nothing to do");
        }
        return Ok(Finish::Done);
    }
    let saver = open_saver(&session, &store, &start, &context);
    let mut saver = agree(collective, saver, TrainError::exit_code)?;
    accounting.stage(Stage::Program, None);
    let planned_step = start.step();
    let is_resumed = start.checkpoint.is_some();
    agree(collective, start.restore(&mut session, &store, collective), TrainError::exit_code)?;
    let first_step = session.state.trainer.counters.step;
    if first_step != planned_step {
        let recorded = saver.resumed_from(first_step, collective);
        agree(collective, recorded, CheckpointError::exit_code)?;
    }
    accounting.stage(Stage::Restore, Some(first_step));
    context.phases.begin(first_step, is_resumed, last_step, global_batch);
    agree(collective, write_config(&session.state.config, &folder, collective.rank()), TrainError::exit_code)?;
    accounting.open(&folder, &saver.writer().attempt_id);
    // After the restore, because a run that has finished or cannot be restored needs neither NCCL nor data.
    let mut session = session.start(&context, last_step)?;
    let mut validation = agree(collective, Validation::open(&session, &context), TrainError::exit_code)?;
    let evaluator = Evaluator::open(&session, &folder, &context, stop)?;
    let compares_states = can_compare(&session.state.config.training, &context)?;
    let is_asked = || {
        let stop = stop.clone();
        move || stop.is_asked()
    };
    session.give_up_when(is_asked());
    let tell_awaited = || {
        let phases = context.phases.clone();
        move |image: &str| phases.awaits(image)
    };
    session.tell_awaited(tell_awaited());
    if let Some(validation) = &mut validation {
        validation.give_up_when(is_asked());
        validation.tell_awaited(tell_awaited());
    }
    let mut run = Loop::new(session, saver, &store, validation, evaluator, &context, accounting, export);
    run.compares_states = compares_states;
    run.log_start(&store, first_step, last_step, started);
    stop.steps_begin();
    let finish = run.train(stop, last_step);
    if finish.is_ok() {
        run.session.state.trainer.finish()?;
    }
    run.end(finish.as_ref().ok().copied());
    let finish = finish.map_err(TrainError::ending)?;
    context.phases.enter(Phase::End, 0);
    Ok(finish)
}

fn folder_error(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Folder { path: path.display().to_string(), source }
}

/// Writes the effective configuration to the run's folder, on rank 0.
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
    evaluator: Option<Evaluator>,
    context: &'a RunContext<'a>,
    board: Rc<TensorBoard>,
    line: Option<Rc<ProgressLine>>,
    metrics: MetricSinks,
    curves: Curves,
    ranks: RankTimes,
    plan: Option<PlanCheck>,
    quarantine: Option<Quarantine>,
    accounting: Accounting,
    black_box: BlackBox,
    overflows: Overflows,
    export: Export,
    /// Whether the ranks compare their states.
    compares_states: bool,
}

impl<'a> Loop<'a> {
    #[allow(clippy::too_many_arguments, reason = "each is a part of the loop")]
    fn new(
        session: Session,
        saver: Saver,
        store: &Store,
        validation: Option<Validation>,
        evaluator: Option<Evaluator>,
        context: &'a RunContext<'a>,
        accounting: Accounting,
        mut export: Export,
    ) -> Self {
        let config = &session.state.config;
        let folder = Path::new(&config.run.folder);
        let counters = &session.state.trainer.counters;
        let collective = context.collective;
        let is_root = collective.rank() == 0;
        let board = match config.telemetry.event_folder(folder).filter(|_| is_root) {
            Some(folder) => TensorBoard::open(&folder, counters.step + 1, config.telemetry.flush_interval()),
            None => TensorBoard::off(),
        };
        let board = Rc::new(board);
        board::describe(&board, config, counters.step);
        let mut sinks: Vec<Rc<dyn MetricSink>> = vec![Rc::clone(&board) as Rc<dyn MetricSink>];
        let line = is_root.then(|| {
            let interval = config.telemetry.progress_interval();
            let shows_loss_scale = counters.loss_scale != LossScale::Off;
            Rc::new(ProgressLine::new(context.progress, config.training.steps, interval, shows_loss_scale))
        });
        sinks.extend(line.iter().map(|line| Rc::clone(line) as Rc<dyn MetricSink>));
        if is_root {
            sinks.extend(export.sinks(config, counters.step + 1));
        }
        let metrics = MetricSinks::new(sinks);
        let num_timesteps = session.state.trainer.objective.diffusion().num_timesteps();
        let curves = Curves::new(config.task, num_timesteps, Instant::now());
        let black_box = BlackBox::open(&session, store, saver.writer().clone());
        let saves = Saves::new(saver, store, &config.checkpoint, metrics.clone(), context.phases.clone(), collective);
        let on_gpus = is_root && context.device.is_cuda();
        let plan = if on_gpus { PlanCheck::open(config, collective.world_size()) } else { None };
        let ranks = RankTimes::default();
        let lists_broken = config.data.on_broken_image == OnBrokenImage::Quarantine;
        let quarantine = lists_broken.then(|| Quarantine::open(folder, collective.rank()));
        Self {
            session,
            saves,
            validation,
            evaluator,
            context,
            board,
            line,
            metrics,
            curves,
            ranks,
            plan,
            quarantine,
            accounting,
            black_box,
            overflows: Overflows::default(),
            export,
            compares_states: false,
        }
    }

    /// Records the end of the run in its files; `None` is the end by an error. Waits a moment for the disk.
    fn end(self, finish: Option<Finish>) {
        let Self { session, saves, metrics, accounting, export, board, quarantine, .. } = self;
        let step = session.state.trainer.counters.step;
        board.run_ends(step, finish == Some(Finish::Done));
        // Without this event, the ledger counts what follows as the reaction to a failure.
        if let Some(finish) = finish {
            accounting.end(step, saves.published(), finish == Finish::Preempted);
        }
        if let Some(quarantine) = quarantine {
            quarantine.finish();
        }
        // It has the sinks, too.
        drop(saves);
        export.finish(metrics);
    }

    fn log_start(&self, store: &Store, first_step: u64, last_step: u64, started: Instant) {
        let collective = self.context.collective;
        if collective.rank() != 0 {
            return;
        }
        let state = &self.session.state;
        tracing::info!(
            parameters = state.trainer.memory.specs().num_elements(),
            ranks = collective.world_size(),
            device = ?self.context.device,
            global_batch = state.config.training.global_batch,
            "training steps {first_step} to {last_step}; checkpoints go to {}; ready after {:.1} s",
            store.url(""),
            started.elapsed().as_secs_f64()
        );
    }

    fn train(&mut self, stop: &Stop, last_step: u64) -> Result<Finish, TrainError> {
        let (collective, phases) = (self.context.collective, &self.context.phases);
        let state = &self.session.state;
        let (first_step, samples) = (state.trainer.counters.step, state.next_sample());
        if let Some(line) = &self.line {
            // The first line shows where the run starts.
            line.record(Metric::counter("samples", first_step, samples as f64));
            line.record(Metric::gauge("lg_loss_scale", first_step, state.trainer.counters.loss_scale.lg()));
            line.commit(first_step, Instant::now());
        }
        self.make_up_evaluation(first_step, stop)?;
        loop {
            let report = self.step()?;
            let state = &self.session.state;
            let step = state.trainer.counters.step;
            let training = &state.config.training;
            let (log, save_interval, sample) =
                (training.log_interval, training.save_interval, training.sample_interval);
            let draws_samples = state.config.task != Task::Classifier;
            self.export.step_done(step);
            self.ranks.add(report.seconds);
            if let Some(line) = self.plan.as_mut().and_then(|plan| plan.add(report.seconds.step)) {
                tracing::info!("{line}");
            }
            self.curves.add(&report, training.global_batch, self.session.num_skipped_images);
            let is_last = step == last_step;
            if step.is_multiple_of(log) || is_last {
                self.log(&report)?;
            }
            if phases.flips_bit(step) {
                self.session.state.trainer.memory.flip_bit()?;
            }
            let seconds = report.exposed_seconds();
            let polled = self.saves.poll(stop.is_asked(), self.accounting.wait_of(seconds), collective)?;
            self.accounting.add_step(seconds, polled);
            self.accounting.steps_done(step, self.saves.published());
            let is_asked = polled.is_asked;
            let is_saved = is_last || is_asked || step.is_multiple_of(save_interval);
            self.check_state(step, is_saved)?;
            let pause_start = Instant::now();
            if is_asked {
                self.list_broken_images()?;
            } else {
                self.validate(step)?;
            }
            let sampling_start = Instant::now();
            self.accounting.add_evaluation(sampling_start - pause_start);
            if sample > 0 && (step.is_multiple_of(sample) || is_last) && draws_samples {
                phases.enter(Phase::Sample, 0);
                self.draw(step)?;
            }
            let evaluation_start = Instant::now();
            self.accounting.add_sampling(evaluation_start - sampling_start);
            if !is_asked {
                self.evaluate(step, is_last, stop)?;
            }
            let save_start = Instant::now();
            self.accounting.add_evaluation(save_start - evaluation_start);
            if is_last || is_asked {
                phases.enter(Phase::Checkpoint, 0);
                self.saves.finish(&self.session.state, !is_last, collective)?;
            } else if step.is_multiple_of(save_interval) {
                phases.enter(Phase::Checkpoint, 0);
                self.saves.begin(&self.session.state, polled, collective)?;
            }
            self.accounting.add_checkpoint(save_start.elapsed());
            self.curves.skip_time(pause_start.elapsed());
            if is_last {
                return Ok(Finish::Done);
            }
            if is_asked {
                return Ok(Finish::Preempted);
            }
        }
    }

    /// Takes a step. Records it in the black box if it goes wrong.
    fn step(&mut self) -> Result<StepReport, TrainError> {
        let published = self.saves.published();
        let report = self.session.step(self.context).inspect_err(|error| {
            self.black_box.failed(&self.session, error, published, self.context);
        })?;
        self.black_box.watch_loss(&self.session, &report, published, self.context)?;
        // The sums of gradients, and so their overflows, are the same on all ranks.
        if let Some(name) = report.overflowed.as_ref().filter(|_| self.context.collective.rank() == 0) {
            self.overflows.add(name, self.session.state.trainer.counters.step, &self.metrics);
        }
        Ok(report)
    }

    fn log(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let collective = self.context.collective;
        let summary = self.curves.take(collective, Instant::now())?;
        let step = self.session.state.trainer.counters.step;
        if collective.rank() == 0 {
            curves::record(&self.metrics, step, self.session.state.next_sample(), report, &summary);
            tracing::debug!(step, loss = summary.mean("loss"), "logged");
        }
        if let Some(ranks) = self.ranks.take(collective, Instant::now())? {
            for (name, value) in ranks.scalars {
                self.record(MetricKind::Seconds, &name, step, value);
            }
            record_ranks(&self.metrics, step, &ranks.ranks);
            if let Some(outlier) = ranks.outlier {
                tracing::warn!("{outlier}");
            }
        }
        self.list_broken_images()?;
        if let Some(line) = &self.line {
            // The curve shows the loss scale of the step, the line that of the next one.
            line.record(Metric::gauge("lg_loss_scale", step, self.session.state.trainer.counters.loss_scale.lg()));
        }
        self.metrics.commit(step, Instant::now());
        Ok(())
    }

    /// Compares the states of the ranks, if it is time for that, or the step `is_saved`. Every rank calls it.
    fn check_state(&self, step: u64, is_saved: bool) -> Result<(), TrainError> {
        let (collective, trainer) = (self.context.collective, &self.session.state.trainer);
        let interval = self.session.state.config.training.check_interval;
        if !self.compares_states || !(is_saved || step.is_multiple_of(interval)) {
            return Ok(());
        }
        let duration = check_same_state(&trainer.memory, &self.context.kernels, collective, step)?;
        self.record(MetricKind::Seconds, "state_comparison_seconds", step, duration.as_secs_f64());
        Ok(())
    }

    /// Lists the broken images that the ranks met since the last call. Every rank calls it.
    fn list_broken_images(&mut self) -> Result<(), TrainError> {
        let Some(quarantine) = &mut self.quarantine else { return Ok(()) };
        let num = quarantine.add(&mut self.session.broken_images, self.context.collective)?;
        let step = self.session.state.trainer.counters.step;
        self.record(MetricKind::Counter, "broken_images", step, num as f64);
        Ok(())
    }

    fn record(&self, kind: MetricKind, name: &str, step: u64, value: f64) {
        self.metrics.record(Metric { name, step, value, kind });
    }

    fn validate(&mut self, step: u64) -> Result<(), TrainError> {
        let Some(validation) = &mut self.validation else { return Ok(()) };
        if !step.is_multiple_of(self.session.state.config.classifier.validation_interval) {
            return Ok(());
        }
        for (name, mean) in validation.measure(&self.session, self.context)? {
            self.record(MetricKind::Gauge, &format!("val_{name}"), step, mean);
        }
        Ok(())
    }

    /// Evaluates the checkpoint from which the run goes on, if that was due and is missing: the attempt that wrote it was
    /// stopped or killed meanwhile, or did not evaluate.
    fn make_up_evaluation(&mut self, step: u64, stop: &Stop) -> Result<(), TrainError> {
        let is_due = self.evaluator.as_ref().is_some_and(|evaluator| step > 0 && evaluator.is_due(step, false));
        if !is_due || !any(self.context.collective, self.saves.lacks_evaluation(step))? {
            return Ok(());
        }
        let started = Instant::now();
        if let Some(evaluation) = self.measured(step, stop)? {
            self.saves.evaluated_later(step, evaluation);
        }
        self.accounting.add_evaluation(started.elapsed());
        Ok(())
    }

    fn evaluate(&mut self, step: u64, is_last: bool, stop: &Stop) -> Result<(), TrainError> {
        if self.evaluator.as_ref().is_some_and(|evaluator| evaluator.is_due(step, is_last))
            && let Some(evaluation) = self.measured(step, stop)?
        {
            self.saves.evaluated(step, evaluation);
        }
        Ok(())
    }

    /// Evaluates the run as it is after `step`. Returns what is recorded, on rank 0, unless the run is asked to stop.
    fn measured(&mut self, step: u64, stop: &Stop) -> Result<Option<Evaluation>, TrainError> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(None) };
        let started = Instant::now();
        let results = evaluator.measure(&self.session, self.context, stop)?;
        let evaluation = (!results.is_empty()).then(|| evaluator.record(&results));
        for (weights, report) in results {
            for row in &report.metrics {
                if let Some(value) = row.exact {
                    self.record(MetricKind::Gauge, &format!("evaluation/{weights}/{}", row.name), step, value);
                }
            }
            let shown = report.metrics.iter().filter_map(|row| Some(format!("{} {:.4}", row.name, row.exact?)));
            tracing::info!(
                step,
                "{weights}: {} of {} images, after {:.1} s",
                shown.collect::<Vec<_>>().join(", "),
                report.samples.num.unwrap_or(0),
                started.elapsed().as_secs_f64()
            );
        }
        Ok(evaluation)
    }

    fn draw(&mut self, step: u64) -> Result<(), TrainError> {
        if let Some(grid) = draw_grid(&self.session, self.context)? {
            self.board.image("sample_grid", step, grid);
        }
        Ok(())
    }
}
