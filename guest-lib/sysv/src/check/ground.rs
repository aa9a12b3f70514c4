//! The superblock, and the directories with their keys and indices.

use super::part::{Fault, Part, View, Who, word};
use crate::object;
use vshmem_core::format::valid_name;
use vshmem_core::layout::{
    FEATURES_INCOMPAT, FEATURES_RO_COMPAT, Limit, MAGIC, PAGE_SHIFT, VERSION, arena, dir, obj, sb,
    seg, set,
};
use vshmem_core::region::Kind;
use vshmem_core::{Offset, Platform};

/// Everything there that an opener looks at, and the limits.
pub(super) fn superblock<P: Platform>(v: View<'_, P>, part: &mut Part) {
    let geometry = v.r.geometry();
    let unknown = |at: u64, known: u64| v.word(Offset(at)) & !known;
    let mut same = vec![
        (sb::MAGIC, v.word(Offset(sb::MAGIC)) == MAGIC, "the magic is gone"),
        (
            sb::VERSION,
            v.word(Offset(sb::VERSION)) == u64::from(PAGE_SHIFT) << 32 | u64::from(VERSION),
            "another version or page size",
        ),
        (sb::INCOMPAT, unknown(sb::INCOMPAT, FEATURES_INCOMPAT) == 0, "unknown features"),
        (sb::RO_COMPAT, unknown(sb::RO_COMPAT, FEATURES_RO_COMPAT) == 0, "unknown features"),
        (sb::LEN, v.word(Offset(sb::LEN)) == geometry.len, "another length"),
        (sb::NUMBER, v.word(Offset(sb::NUMBER)) == geometry.number.into(), "another number"),
        (sb::NAME, v.r.name().is_ok_and(|n| valid_name(&n)), "the name is none"),
    ];
    for (i, place) in geometry.tables.iter().enumerate() {
        let at = sb::TABLES + i as u64 * 24;
        let words = [0, 8, 16].map(|o| v.word(Offset(at + o)));
        let good = words == [place.at.0, place.stride, place.count];
        same.push((at, good, "a table is elsewhere than this format has it"));
    }
    for (at, good, what) in same {
        let at = Offset(at);
        part.expect(v, good, Fault::Superblock, Who::Superblock, at, || what.to_owned());
    }
    for limit in Limit::ALL {
        let at = Offset(sb::LIMITS).index(limit as u64, 8);
        let (value, most) = (v.word(at), geometry.limit_max(limit));
        part.expect(v, value <= most, Fault::Limit, Who::Superblock, at, || {
            format!("{} is {value}, and there is room for {most}", limit.name())
        });
    }
    part.lock_word(v, Who::Arena, Offset(sb::ARENA + arena::LOCK));
}

/// Counts, used indices and keys of one kind.
pub(super) fn directory<P: Platform>(v: View<'_, P>, kind: Kind, part: &mut Part) {
    let (at, who) = (kind.dir(), Who::Directory(kind));
    let in_use = at.plus(dir::IN_USE);
    // Every creation and every end changes it: while it stands, so do they all.
    let rests = [in_use, at.plus(dir::TOTAL)];
    part.lock_word(v, who, at.plus(dir::LOCK));
    let table = v.r.table(kind.table());
    let used = v.r.table(kind.used()).at;
    let (counted, counted_total) = (v.cell(in_use), v.cell(at.plus(dir::TOTAL)));
    let (mut live, mut total) = (0u32, 0u64);
    for index in 0..table.count as u32 {
        let object = table.at.index(index.into(), obj::STRIDE);
        let life = object.plus(obj::LIFE);
        let bits = used.index(u64::from(index / 32), 8);
        let marked = v.cell(bits) >> (index % 32) & 1 == 1;
        let there = v.cell(life) & 3 != obj::FREE;
        if marked != there {
            let what = match there {
                true => "it exists, and its index is marked free",
                false => "its index is marked used, and it does not exist",
            };
            part.note(
                v,
                Fault::Index,
                Who::of(v, kind, index),
                bits,
                what.to_owned(),
                &[bits, life],
            );
        }
        if there {
            live += 1;
            total += u64::from(v.cell(object.plus(match kind {
                Kind::Seg => seg::PAGES,
                Kind::Set => set::NSEMS,
                Kind::Queue => continue,
            })));
        }
    }
    let rest = v.r.table(kind.used()).count as u32 * 32 - table.count as u32;
    let last = used.index(v.r.table(kind.used()).count - 1, 8);
    let beyond = v.cell(last).checked_shr(32 - rest).unwrap_or(0);
    part.expect(v, rest == 0 || beyond == 0, Fault::Index, who, last, || {
        "indices behind the end of the table are marked".to_owned()
    });
    if counted != live {
        let what = format!("counts {counted} {}s, there are {live}", word(kind));
        part.note(v, Fault::Directory, who, in_use, what, &rests);
    }
    if u64::from(counted_total) != total {
        let what = format!(
            "counts {counted_total} {}, there are {total}",
            if kind == Kind::Set { "semaphores" } else { "pages" }
        );
        part.note(v, Fault::Directory, who, at.plus(dir::TOTAL), what, &rests);
    }
    let last = at.plus(dir::LAST);
    part.expect(v, u64::from(v.cell(last)) <= table.count, Fault::Directory, who, last, || {
        format!("the last index given out was {}", v.cell(last))
    });
    keys(v, kind, part);
}

/// Every object with a key is in its key's chain, once, and nothing else is in any.
fn keys<P: Platform>(v: View<'_, P>, kind: Kind, part: &mut Part) {
    let table = v.r.table(kind.table());
    let buckets = v.r.table(kind.keys());
    let in_use = kind.dir().plus(dir::IN_USE);
    let mut chained = vec![false; table.count as usize];
    let mut by_key = std::collections::HashMap::new();
    for bucket in 0..buckets.count {
        let head = buckets.at.index(bucket, 8);
        let mut link = head;
        for passed in 0.. {
            let Some(index) = v.cell(link).checked_sub(1) else { break };
            let who = Who::of(v, kind, index);
            let Ok(object) = v.r.object(kind, index) else {
                let what = format!("chain {bucket} leads to index {index}, which does not exist");
                part.note(v, Fault::Key, Who::Directory(kind), link, what, &[link]);
                break;
            };
            if passed > table.count || std::mem::replace(&mut chained[index as usize], true) {
                let what = format!("chain {bucket} leads to it a second time");
                part.note(v, Fault::Key, who, link, what, &[link, in_use]);
                break;
            }
            let (key, life) = (object.plus(obj::KEY), object.plus(obj::LIFE));
            let value = v.cell(key) as i32;
            let rests = [link, key, life];
            if v.cell(life) & 3 == obj::FREE || value == 0 {
                let what = format!("chain {bucket} leads to it, and it has no key");
                part.note(v, Fault::Key, who, link, what, &rests);
            } else if object::bucket(v.r, kind, value) != head {
                let what = format!("chain {bucket} is not that of its key {value:#x}");
                part.note(v, Fault::Key, who, link, what, &rests);
            } else if let Some(other) = by_key.insert(value, index) {
                let what = format!("has key {value:#x}, as {} {other} has", word(kind));
                part.note(v, Fault::Key, who, key, what, &rests);
            }
            link = object.plus(obj::NEXT);
        }
    }
    for (index, chained) in (0..).zip(chained) {
        let object = table.at.index(u64::from(index), obj::STRIDE);
        let (key, life) = (object.plus(obj::KEY), object.plus(obj::LIFE));
        let value = v.cell(key);
        if !chained && value != 0 && v.cell(life) & 3 != obj::FREE {
            let what = format!("is not in the chain of its key {value:#x}");
            part.note(v, Fault::Key, Who::of(v, kind, index), key, what, &[key, life, in_use]);
        }
    }
}
