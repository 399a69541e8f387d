//! `dyn cluster`

mod apply;
mod changes;
mod create;
mod describe;
mod enable;
pub(super) mod estimate;
pub(super) mod features;
mod history;
mod plan;
mod risk;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::connection::block_on;
use crate::error::CliError;
use crate::exit::Exit;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Found a cluster, plan and make changes of its members, see those that were made, and switch on features
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Create(create::Create),
    Plan(plan::PlanCommand),
    Apply(apply::Apply),
    History(history::HistoryCommand),
    Features(features::FeaturesCommand),
    Enable(enable::Enable),
}

impl Cluster {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            ClusterCommand::Create(create) => create.run(),
            ClusterCommand::Plan(plan) => block_on(plan.run()),
            ClusterCommand::Apply(apply) => block_on(apply.run()),
            ClusterCommand::History(history) => block_on(history.run()),
            ClusterCommand::Features(features) => block_on(features.run()),
            ClusterCommand::Enable(enable) => block_on(enable.run()),
        }
    }
}
