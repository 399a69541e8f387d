//! `dyn cluster enable`

use clap::Args;
use dynkv_client::Error;
use dynkv_client::proto::{FailureCode, Feature};
use serde_json::json;

use crate::commands::bucket::wait_everywhere;
use crate::commands::ring::check_founded;
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Switch on a feature, once every node knows it
///
/// There is no way back: from then on a node that is started with a version that does not know the feature serves nothing. It is refused as long as a
/// member has not said that it knows it, also if that one is down. Takes an administrator's certificate.
#[derive(Debug, Args)]
pub(super) struct Enable {
    /// The feature, as `dyn cluster features` lists it
    #[arg(value_name = "FEATURE")]
    feature: Feature,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Enable {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        let feature = self.feature;
        let client = self.connection.client().await?;
        check_founded(&client)?;
        let was_on = client.view().features().is_on(feature);
        if !was_on {
            client.enable(feature).await.map_err(|error| match error {
                // What was typed is right; the cluster is not as it would have to be.
                Error::NotDone { code: FailureCode::Invalid, message, .. } => CliError::Refused(message),
                other => CliError::Request { what: format!("cluster enable {feature}"), source: other },
            })?;
            wait_everywhere(&client).await;
        }
        if self.json {
            output::json(&json!({"cluster": client.cluster(), "feature": feature.name(), "was_on": was_on}))?;
        } else {
            let now = if was_on { "was switched on before" } else { "is switched on" };
            output::line(format_args!("{feature} {now}: {}", feature.description()))?;
        }
        Ok(Exit::Ok)
    }
}
