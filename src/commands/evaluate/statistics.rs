//! Statistics of images in files: `admiral evaluate statistics` and `admiral evaluate merge`.

use std::path::Path;

use admiral_comm::{Ending, ExitCode, agree};
use admiral_evaluation::{ImageSet, check_images};
use admiral_statistics::StatisticsFile;

use crate::context::RankContext;
use crate::evaluate::Error;
use crate::stop::Stop;

use super::super::model_options::check_out;
use super::features::{self, Network, compute, open_images, open_work};
use super::options::{MergeOptions, StatisticsOptions};

/// Computes the statistics of images and writes them. Every rank calls it.
///
/// # Errors
/// When the images cannot be read, or the file cannot be written.
pub(super) fn run(options: &StatisticsOptions, stop: &Stop, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let (collective, code) = (rank.collective, Error::exit_code);
    agree(collective, check_out("--out", &options.out, "safetensors", rank).map_err(Error::from), code)?;
    let network = Network::open(&options.network, rank)?;
    let mut images = open_images(&options.images, &network, &options.network, rank)?;
    let checked = check_images(&images.count(), 1, "a file of statistics", network.extractor.input());
    agree(collective, checked.map_err(Error::from), code)?;
    let labels = if options.per_class { labels_of(&images).map(Some) } else { Ok(None) };
    let labels = agree(collective, labels, code)?;
    let store = open_work(options.network.work.as_deref(), &options.images, rank)?;
    let Some(parts) = compute(&mut images, &network, &store, stop)? else { return Ok(ExitCode::Preempted) };
    let write = || -> Result<(), Error> {
        if collective.rank() != 0 {
            return Ok(());
        }
        let file = parts.read_all()?.statistics(network.extractor.identity(), labels.as_deref())?;
        write(&file, &options.out)
    };
    agree(collective, write(), code)?;
    Ok(ExitCode::Finished)
}

fn labels_of(images: &ImageSet) -> Result<Vec<i64>, Error> {
    let labels = images.labels()?;
    labels.ok_or_else(|| Error::Refused(format!("--per-class: the images of {} have no classes", images.location())))
}

/// Merges files of statistics. Every rank calls it; rank 0 does the work.
///
/// # Errors
/// When a file cannot be read or merged, or the result cannot be written.
pub(super) fn merge(options: &MergeOptions, rank: RankContext<'_>) -> Result<ExitCode, Ending> {
    let merge = || -> Result<(), Error> {
        check_out("--out", &options.out, "safetensors", rank)?;
        if rank.collective.rank() != 0 {
            return Ok(());
        }
        let mut merged: Option<StatisticsFile> = None;
        for path in &options.files {
            let file = StatisticsFile::read(path)?;
            match &mut merged {
                Some(merged) => merged.merge(&file)?,
                None => merged = Some(file),
            }
        }
        merged.map_or(Ok(()), |merged| write(&merged, &options.out))
    };
    agree(rank.collective, merge(), Error::exit_code)?;
    Ok(ExitCode::Finished)
}

/// Writes a file and says so.
fn write(file: &StatisticsFile, out: &Path) -> Result<(), Error> {
    features::write(out, &file.to_bytes()?)?;
    println!("{}: statistics of {} images, by {}", out.display(), file.num(), file.extractor.shown());
    Ok(())
}
