//! Several volumes at one place: which of them decides about the data. [`turn`] decides, [`take`] asks and notes it.
//!
//! Directories may be shared, and the older provisioners gave each new claim of a name the path of the last one, so that their
//! released volumes lie upon one another. While the location is in use, or another released volume goes after this one, the
//! bytes are kept. The one with the most careful disposal goes last, of several the last by name, and takes them with it:
//! no data is deleted because that of another volume was to be.
//!
//! What a volume above or below means is decided in the parent module.

use std::{collections::HashMap, sync::Arc};

use super::{Plan, class, plan};
use crate::{
    provisioner::{
        cache::{LocationKey, Sharer, Sharing},
        context::Context,
        key::Key,
        queue::Outcome,
    },
    volume::{Disposal, Removal},
};

/// When a volume may decide about the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now: nothing else lies there.
    Last,
    /// Never: they are left to this one.
    Yield(String),
    /// When this one is gone.
    Wait(Sharer, Other),
}

/// What another volume at the place is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    /// It uses the data, or may be used again.
    Uses,
    /// It leaves the data where they are, and goes.
    Leaves,
    /// It is released, and would do this with the data.
    Released(Disposal),
    /// It is released, and stays until a person corrects it: what it would do is unknown.
    Stuck,
    /// It is released, and was not asked what it would do.
    Unknown,
}

/// What is done with the data, from the least careful to the most careful.
fn care(disposal: Disposal) -> u8 {
    match disposal {
        Disposal::Delete => 0,
        Disposal::Archive => 1,
        Disposal::Retain => 2,
    }
}

/// Whether `other` of that name goes after the volume `name`, which would do `disposal`.
fn goes_later(name: &str, disposal: Disposal, id: &str, other: Other) -> bool {
    match other {
        Other::Released(theirs) => (care(theirs), id) > (care(disposal), name),
        // Whatever it will do, it is no more careless than this.
        Other::Stuck => disposal == Disposal::Delete,
        Other::Uses | Other::Leaves | Other::Unknown => false,
    }
}

/// Decides about the volume `name`, which would do `disposal`, among `others` at its place.
fn turn(name: &str, disposal: Disposal, others: &[(Sharer, Other)]) -> Turn {
    let decides = |(sharer, other): &&(Sharer, Other)| {
        *other == Other::Uses || goes_later(name, disposal, &sharer.id, *other)
    };
    match (others.iter().find(decides), others.last()) {
        (Some((decides, _)), _) => Turn::Yield(decides.who.clone()),
        (None, Some((sharer, other))) => Turn::Wait(sharer.clone(), *other),
        (None, None) => Turn::Last,
    }
}

/// Asks those who share the place of the volume `name`, and says whose turn it is. That it yields is noted in the same moment:
/// of two volumes that decide at once, only one yields to the other.
pub(super) async fn take(
    ctx: &Context,
    name: &str,
    removal: &Removal,
    location: &LocationKey,
) -> Result<Turn, Outcome> {
    let disposal = removal.disposal.of(removal.origin);
    let mut asked: HashMap<Arc<str>, Option<Other>> = HashMap::new();
    let mut others = ctx.cache().sharers(location, name);
    others.sort_by(|a, b| b.id.cmp(&a.id));
    for other in others {
        match other.sharing {
            Sharing::Uses => break,
            Sharing::Leaves => {}
            Sharing::Released => {
                let said = ask(ctx, &other.id).await?;
                let later = said.is_some_and(|said| goes_later(name, disposal, &other.id, said));
                asked.insert(other.id, said);
                if later {
                    break;
                }
            }
        }
    }
    let mut cache = ctx.cache();
    let others: Vec<(Sharer, Other)> = cache
        .sharers(location, name)
        .into_iter()
        .filter_map(|sharer| {
            let other = match sharer.sharing {
                Sharing::Uses => Other::Uses,
                Sharing::Leaves => Other::Leaves,
                Sharing::Released => asked.get(&sharer.id).copied().unwrap_or(Some(Other::Unknown))?,
            };
            Some((sharer, other))
        })
        .collect();
    let turn = turn(name, disposal, &others);
    cache.gives_up_data(name, matches!(turn, Turn::Yield(_)));
    if let Turn::Wait(other, _) = &turn {
        cache.wakeups.wait(&other.id, Key::Volume(name.into()));
    }
    Ok(turn)
}

/// What the released volume `name` would do; `None` where it is gone.
async fn ask(ctx: &Context, name: &str) -> Result<Option<Other>, Outcome> {
    let Some(live) = ctx.live_volume(name, "at the same location").await? else { return Ok(None) };
    let class = class::if_needed(ctx, &live).await?;
    let uses_finalizers = ctx.cache().uses_finalizers();
    Ok(Some(match plan(&live, class.as_ref(), &ctx.backends, uses_finalizers) {
        Plan::Ignore => Other::Uses,
        Plan::Refuse(_) => Other::Stuck,
        Plan::Remove(order) => Other::Released(order.removal.disposal.of(order.removal.origin)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is about, what the volume would do, the others at its place, and whose turn it is.
    type Row<'a> = (&'a str, Disposal, Vec<(&'a str, Other)>, &'a str);

    fn other(name: &str, other: Other) -> (Sharer, Other) {
        let sharer =
            Sharer { who: format!("PersistentVolume {name}"), id: name.into(), sharing: Sharing::Released };
        (sharer, other)
    }

    #[test]
    fn the_most_careful_volume_at_a_place_goes_last_and_the_others_leave_the_bytes_to_it() {
        use Disposal::{Archive, Delete, Retain};
        use Other::{Leaves, Released, Stuck, Unknown, Uses};
        // The volume is called m. An expectation is what it does, and because of whom.
        let table: Vec<Row<'_>> = vec![
            ("alone it decides", Delete, vec![], "last"),
            ("a user keeps the bytes", Delete, vec![("a", Uses)], "yield a"),
            ("also from being archived", Archive, vec![("a", Uses)], "yield a"),
            ("of equals the last by name goes last", Delete, vec![("a", Released(Delete))], "wait a"),
            ("and the others leave them to it", Delete, vec![("z", Released(Delete))], "yield z"),
            (
                "of three, the middle one as well",
                Delete,
                vec![("a", Released(Delete)), ("z", Released(Delete))],
                "yield z",
            ),
            ("who archives goes after who deletes", Archive, vec![("z", Released(Delete))], "wait z"),
            ("who deletes goes before who archives", Delete, vec![("a", Released(Archive))], "yield a"),
            ("who keeps goes after who archives", Retain, vec![("z", Released(Archive))], "wait z"),
            ("and before a user, who decides", Retain, vec![("z", Uses)], "yield z"),
            ("who has yielded already is waited for", Delete, vec![("z", Leaves)], "wait z"),
            ("unless another one decides", Delete, vec![("a", Leaves), ("z", Released(Delete))], "yield z"),
            ("who waits for a person may be more careful", Delete, vec![("a", Stuck)], "yield a"),
            ("or less, so that an archive waits", Archive, vec![("z", Stuck)], "wait z"),
            ("and so does what is kept", Retain, vec![("z", Stuck)], "wait z"),
            ("who came meanwhile is waited for", Delete, vec![("z", Unknown)], "wait z"),
        ];
        for (row, disposal, others, expected) in table {
            let others: Vec<_> = others.into_iter().map(|(name, said)| other(name, said)).collect();
            let found = match turn("m", disposal, &others) {
                Turn::Last => "last".to_owned(),
                Turn::Yield(who) => format!("yield {}", who.trim_start_matches("PersistentVolume ")),
                Turn::Wait(sharer, _) => format!("wait {}", sharer.id),
            };
            assert_eq!(found, expected, "{row}");
        }
    }

    /// Whatever they are called and would do, exactly one of those released takes the data, and does the most careful.
    #[test]
    fn of_all_orders_exactly_one_volume_takes_the_bytes_and_it_is_the_most_careful() {
        let disposals = [Disposal::Delete, Disposal::Archive, Disposal::Retain];
        for code in 0..27 {
            let mut left: Vec<(String, Disposal)> = (0..3_usize)
                .map(|place| {
                    (format!("v{place}"), disposals[code / 3_usize.pow(u32::try_from(place).unwrap()) % 3])
                })
                .collect();
            let most = left.iter().map(|(_, disposal)| care(*disposal)).max().unwrap();
            while left.len() > 1 {
                let turns: Vec<Turn> = left
                    .iter()
                    .map(|(name, disposal)| {
                        let others: Vec<_> = left
                            .iter()
                            .filter(|(other, _)| other != name)
                            .map(|(name, disposal)| other(name, Other::Released(*disposal)))
                            .collect();
                        turn(name, *disposal, &others)
                    })
                    .collect();
                let waiting = turns.iter().filter(|turn| matches!(turn, Turn::Wait(..))).count();
                assert_eq!(waiting, 1, "{left:?}: {turns:?}");
                let yielding = turns.iter().position(|turn| matches!(turn, Turn::Yield(_))).unwrap();
                left.remove(yielding);
            }
            assert_eq!(care(left[0].1), most);
        }
    }
}
