//! What several tests look at.

use bytes::Bytes;
use dynkv_client::{Client, Error, Fetched};
use dynkv_proto::{FailureCode, GetReply, Outcome};

/// The values of a key, sorted.
pub(crate) fn values(fetched: &Fetched) -> Vec<String> {
    let mut values: Vec<String> = fetched.siblings.iter().map(|sibling| text(&sibling.value)).collect();
    values.sort();
    values
}

/// The values of a key, sorted, by a read with the bucket's quorum.
pub(crate) async fn read(client: &Client, bucket: &str, key: &'static str) -> Vec<String> {
    let fetched = client.get(bucket, key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    values(&fetched)
}

/// The values in a bare answer, sorted.
pub(crate) fn split(reply: &GetReply, mut body: Bytes) -> Vec<String> {
    let cut = |len: u64| text(&body.split_to(usize::try_from(len).expect("as long as the body at most")));
    let mut values: Vec<String> = reply.versions.iter().map(|version| version.len).map(cut).collect();
    values.sort();
    values
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A refusal with this code that certainly changed nothing.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, code: FailureCode) -> Error {
    let error = result.expect_err("it was not refused");
    assert_eq!((error.code(), error.outcome()), (Some(code), Outcome::NotDone), "{error}");
    assert!(!error.to_string().contains('\n'), "more than one line: {error}");
    error
}
