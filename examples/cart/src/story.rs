//! Two devices and one cart.

use std::io::{self, Write};

use dynkv_client::{Client, Context, Error, Fetched};
use thiserror::Error as ThisError;

use crate::{Cart, DamagedCart, LineId};

const BUCKET: &str = "carts";
const KEY: &str = "example";

/// What can go wrong on the way.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum StoryError {
    /// The store did not answer with success.
    #[error(transparent)]
    Store(#[from] Error),
    /// What is stored under the key is no cart.
    #[error(transparent)]
    Cart(#[from] DamagedCart),
    /// The text cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// An item that was added is not there: the store broke its promise.
    #[error(
        "the cart holds '{found}' and should hold '{expected}': did somebody else write {BUCKET}/{KEY}, or is the bucket set to conflict = lww?"
    )]
    Lost {
        /// What the cart holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// Lets two clients fill one cart, and writes to `out` what happens. Begins with an empty cart.
///
/// # Errors
/// [`StoryError`]; [`StoryError::Lost`] if anything that was added is missing.
pub async fn tell(phone: &Client, laptop: &Client, out: &mut impl Write) -> Result<(), StoryError> {
    let left_over = phone.get(BUCKET, KEY).await?;
    if !left_over.is_absent() {
        writeln!(out, "(An earlier run left a cart behind; it is deleted first.)\n")?;
        phone.delete(BUCKET, KEY).context(&left_over.context).await?;
    }

    writeln!(out, "1. Phone and laptop read the cart {BUCKET}/{KEY}.")?;
    let (seen_by_phone, seen_by_laptop) = tokio::try_join!(phone.get(BUCKET, KEY), laptop.get(BUCKET, KEY))?;
    show(out, "phone sees", &seen_by_phone)?;
    show(out, "laptop sees", &seen_by_laptop)?;

    writeln!(out, "\n2. Both add to what they have seen, at the same time.")?;
    let (mut on_phone, mut on_laptop) = (merged(&seen_by_phone)?, merged(&seen_by_laptop)?);
    add(&mut on_phone, "apples", 2);
    add(&mut on_phone, "milk", 1);
    add(&mut on_laptop, "bread", 1);
    writeln!(out, "   phone writes:  {on_phone}")?;
    writeln!(out, "   laptop writes: {on_laptop}")?;
    write_both(
        phone,
        laptop,
        [(&on_phone, &seen_by_phone.context), (&on_laptop, &seen_by_laptop.context)],
        out,
    )
    .await?;

    writeln!(out, "\n3. The next reader gets both, for neither had read the other's.")?;
    let seen = phone.get(BUCKET, KEY).await?;
    show(out, "phone sees", &seen)?;
    let cart = merged(&seen)?;
    writeln!(out, "   merged: {cart}")?;
    expect(&cart, "2 apples, 1 bread, 1 milk")?;

    writeln!(out, "\n4. The phone writes the merged cart under the context of that read: it replaces both.")?;
    phone.put(BUCKET, KEY, cart.to_json()).context(&seen.context).content_type("application/json").await?;
    let seen = laptop.get(BUCKET, KEY).await?;
    show(out, "laptop sees", &seen)?;

    writeln!(out, "\n5. The phone takes the milk out, while the laptop orders another one.")?;
    let (mut on_phone, mut on_laptop) = (merged(&seen)?, merged(&seen)?);
    on_phone.remove("milk");
    add(&mut on_laptop, "milk", 1);
    writeln!(out, "   phone writes:  {on_phone}")?;
    writeln!(out, "   laptop writes: {on_laptop}")?;
    write_both(phone, laptop, [(&on_phone, &seen.context), (&on_laptop, &seen.context)], out).await?;

    writeln!(out, "\n6. Merged, the milk that the phone had seen is gone, and the new one is there.")?;
    let seen = laptop.get(BUCKET, KEY).await?;
    show(out, "laptop sees", &seen)?;
    let cart = merged(&seen)?;
    expect(&cart, "2 apples, 1 bread, 1 milk")?;
    laptop.put(BUCKET, KEY, cart.to_json()).context(&seen.context).content_type("application/json").await?;
    writeln!(out, "   merged and written: {cart}")?;
    writeln!(out, "\nNothing that was added is lost. Look at it with: dyn get {BUCKET}/{KEY}")?;
    Ok(())
}

/// The one cart that all siblings together are.
fn merged(fetched: &Fetched) -> Result<Cart, DamagedCart> {
    fetched
        .siblings
        .iter()
        .try_fold(Cart::default(), |cart, sibling| Ok(cart.merge(Cart::from_json(&sibling.value)?)))
}

fn add(cart: &mut Cart, item: &str, quantity: u32) {
    cart.add(LineId(rand::random()), item, quantity);
}

async fn write_both(
    phone: &Client,
    laptop: &Client,
    [(on_phone, seen_by_phone), (on_laptop, seen_by_laptop)]: [(&Cart, &Context); 2],
    out: &mut impl Write,
) -> Result<(), StoryError> {
    let (by_phone, by_laptop) = tokio::try_join!(
        phone.put(BUCKET, KEY, on_phone.to_json()).context(seen_by_phone).content_type("application/json"),
        laptop.put(BUCKET, KEY, on_laptop.to_json()).context(seen_by_laptop).content_type("application/json"),
    )?;
    for (who, stored) in [("phone", by_phone), ("laptop", by_laptop)] {
        writeln!(out, "   {who}'s write is version {}, kept by {} nodes", stored.dot, stored.replicas)?;
    }
    Ok(())
}

fn show(out: &mut impl Write, who: &str, fetched: &Fetched) -> Result<(), StoryError> {
    match &fetched.siblings[..] {
        [] => writeln!(out, "   {who}: nothing yet")?,
        [only] => writeln!(out, "   {who}: {}", Cart::from_json(&only.value)?)?,
        several => {
            writeln!(out, "   {who} {} siblings:", several.len())?;
            for sibling in several {
                writeln!(out, "      {}  (version {})", Cart::from_json(&sibling.value)?, sibling.dot)?;
            }
        }
    }
    Ok(())
}

fn expect(cart: &Cart, expected: &'static str) -> Result<(), StoryError> {
    let found = cart.to_string();
    if found == expected { Ok(()) } else { Err(StoryError::Lost { found, expected }) }
}
