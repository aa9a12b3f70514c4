//! The arena, and whose every page and block is.

use super::part::{Fault, Fix, Part, Span, Use, View, Who};
use vshmem_core::arena::{Pool, pool_at};
use vshmem_core::layout::{PAGE, Table, arena, sb};
use vshmem_core::{Offset, Platform};

/// 64-byte units of a page.
const PER: u64 = PAGE >> arena::MIN_SHIFT;

/// The bitmap of pages in use, as it was when the look began.
pub(super) struct Pages {
    at: Offset,
    words: Vec<u64>,
}

impl Pages {
    pub fn read<P: Platform>(v: View<'_, P>) -> Self {
        let place = v.r.table(Table::PageUsed);
        let words = (0..place.count).map(|i| v.word(place.at.index(i, 8))).collect();
        Self { at: place.at, words }
    }

    fn cell_at(&self, page: u64) -> (Offset, u64) {
        let i = page / 32;
        (self.at.index(i, 8), self.words.get(i as usize).copied().unwrap_or(0))
    }

    /// Runs of pages in use, as first and end.
    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (i, word) in (0u64..).zip(&self.words) {
            let mut bits = *word as u32;
            while bits != 0 {
                let from = u64::from(bits.trailing_zeros());
                let n = u64::from((!(bits >> from)).trailing_zeros().min(32 - from as u32));
                let first = i * 32 + from;
                match runs.last_mut() {
                    Some((_, end)) if *end == first => *end += n,
                    _ => runs.push((first, first + n)),
                }
                bits &= !(((1u64 << n) - 1) << from) as u32;
            }
        }
        runs
    }
}

/// Free lists and what is not carved yet.
pub(super) fn arena<P: Platform>(v: View<'_, P>, part: &mut Part) {
    for pool in Pool::ALL {
        for class in 0..u64::from(arena::CLASSES) {
            let at = pool_at(pool, class);
            free_list(v, pool, class, at, part);
            let (carve, end) = (at.plus(8), at.plus(16));
            let (from, to) = (u64::from(v.cell(carve)), u64::from(v.cell(end)));
            if from == to {
                continue;
            }
            let inside = |cell: u64| v.r.block(cell as u32).is_ok();
            if from > to
                || !inside(from)
                || !inside(to - 1)
                || !(to - from).is_multiple_of(1 << class)
            {
                let what = format!(
                    "{pool:?} of {} bytes are carved from {from:#x} to {to:#x}",
                    64 << class
                );
                part.note(v, Fault::Arena, Who::Arena, carve, what, &[carve, end]);
                continue;
            }
            part.spans.push(Span {
                start: from,
                units: to - from,
                class: Some((pool, class)),
                used: Use::Uncarved,
                says: (carve, v.word(carve)),
            });
        }
    }
}

fn free_list<P: Platform>(v: View<'_, P>, pool: Pool, class: u64, head: Offset, part: &mut Part) {
    // Brent's: a circle is met when the walker comes back to where it last rested.
    let (mut link, mut rest, mut steps, mut power) = (head, 0, 0u64, 1u64);
    let units = 1u64 << class;
    loop {
        let word = v.word(link);
        let cell = word as u32;
        if cell == 0 {
            return;
        }
        let fits = |b: Offset| b.0 + (units << arena::MIN_SHIFT) <= v.r.mem().len();
        let Some(block) = v.r.block(cell).ok().filter(|b| fits(*b)) else {
            let what = format!(
                "the free list of {pool:?} of {} bytes leads to {:#x}, outside the pages",
                64u64 << class,
                u64::from(cell) << arena::MIN_SHIFT
            );
            return part.note(v, Fault::Arena, Who::Arena, link, what, &[link]);
        };
        if cell == rest {
            let what = format!("the free list of {pool:?} of {} bytes is a circle", 64u64 << class);
            return part.note(v, Fault::Arena, Who::Arena, link, what, &[link]);
        }
        if steps == power {
            (rest, power, steps) = (cell, power * 2, 0);
        }
        steps += 1;
        part.spans.push(Span {
            start: cell.into(),
            units,
            class: Some((pool, class)),
            used: Use::Free,
            says: (link, word),
        });
        if pool == Pool::Rings {
            // What somebody has not let go of.
            super::ring::blocks(v, Fault::Arena, Who::Arena, block, part);
        }
        link = block;
    }
}

/// Every piece of memory in use is exactly one's, and marked; nothing else is.
pub(super) fn ownership<P: Platform>(v: View<'_, P>, pages: &Pages, part: &mut Part) {
    let runs = pages.runs();
    count(v, &runs, part);
    let mut spans = std::mem::take(&mut part.spans);
    spans.sort_by_key(|s| (s.start, s.end()));
    // A circle in a free list, reported there, lists blocks twice.
    spans.dedup_by(|a, b| a.says == b.says && a.start == b.start);
    let mut widest: Option<Span> = None;
    for span in &spans {
        if let Some(before) = &widest
            && before.end() > span.start
        {
            let at = Offset(span.start << arena::MIN_SHIFT);
            let who = if let Use::Of(who) = span.used { who } else { Who::Arena };
            let what = format!("belongs to {} and to {}", before.used, span.used);
            let listed = [span, before].into_iter().find(|s| s.used == Use::Free);
            let fix = listed.map_or(Fix::Look, |s| Fix::Unlink(s.says.0));
            part.push(Fault::Shared, who, at, what, vec![before.says, span.says], fix);
        }
        if widest.as_ref().is_none_or(|w| w.end() < span.end()) {
            widest = Some(*span);
        }
    }
    unmarked(pages, &runs, &spans, part);
    leaks(v, pages, &runs, &spans, part);
}

fn count<P: Platform>(v: View<'_, P>, runs: &[(u64, u64)], part: &mut Part) {
    let at = Offset(sb::ARENA + arena::PAGES);
    let (counted, real) = (v.cell(at), runs.iter().map(|(a, b)| b - a).sum::<u64>());
    if u64::from(counted) != real {
        let what = format!("counts {counted} pages in use, {real} are marked");
        part.note(v, Fault::Pages, Who::Arena, at, what, &[at]);
    }
    let place = v.r.table(Table::Pages);
    let (first, end) = (place.at.0 / PAGE, place.at.0 / PAGE + place.count);
    for (name, table) in [("used", Table::PageUsed), ("dirty", Table::PageDirty)] {
        let bitmap = v.r.table(table);
        for i in (0..first.div_ceil(32)).chain(end / 32..bitmap.count) {
            let at = bitmap.at.index(i, 8);
            let bits = v.cell(at);
            let outside = |bit: u64| !(first..end).contains(&(i * 32 + bit));
            let wrong = (0..32).find(|bit| bits >> bit & 1 == 1 && outside(*bit));
            if let Some(bit) = wrong {
                let what =
                    format!("page {}, which is none to hand out, is marked {name}", i * 32 + bit);
                part.note(v, Fault::Pages, Who::Arena, at, what, &[at]);
            }
        }
    }
}

/// What is somebody's and not marked as in use.
fn unmarked(pages: &Pages, runs: &[(u64, u64)], spans: &[Span], part: &mut Part) {
    for span in spans {
        let (first, end) = (span.start / PER, span.end().div_ceil(PER));
        let run = runs[..runs.partition_point(|(from, _)| *from <= first)].last();
        let marked = run.map_or(first, |(_, to)| (*to).max(first));
        if marked >= end {
            continue;
        }
        let who = if let Use::Of(who) = span.used { who } else { Who::Arena };
        let what = format!("page {marked} is in use ({}) and marked free", span.used);
        let rests = vec![span.says, pages.cell_at(marked)];
        let fix = Fix::Pages(first, end - first);
        part.push(Fault::Unmarked, who, Offset(marked * PAGE), what, rests, fix);
    }
}

/// What is marked as in use and nobody's.
fn leaks<P: Platform>(
    v: View<'_, P>,
    pages: &Pages,
    runs: &[(u64, u64)],
    spans: &[Span],
    part: &mut Part,
) {
    let mut next = 0;
    for (first, end) in runs {
        let (mut at, end) = (first * PER, end * PER);
        // Whose memory ends where the gap begins.
        let mut before: Option<&Span> = None;
        while at < end {
            while next < spans.len() && spans[next].end() <= at {
                next += 1;
            }
            let after = spans.get(next).filter(|s| s.start < end);
            let to = after.map_or(end, |s| s.start.max(at));
            if to > at {
                leak(v, pages, (at, to), (before, after), part);
            }
            before = after.filter(|s| s.class.is_some());
            at = after.map_or(end, |s| s.end().max(at));
        }
    }
}

/// Notes a gap. Its parts are of the pools beside it: a pool takes whole pages, so what begins or ends
/// within a page is of the pool of the rest of that page.
fn leak<P: Platform>(
    v: View<'_, P>,
    pages: &Pages,
    (from, to): (u64, u64),
    (before, after): (Option<&Span>, Option<&Span>),
    part: &mut Part,
) {
    let before = before.filter(|s| s.end() == from).and_then(|s| s.class);
    let after = after.filter(|s| s.start == to).and_then(|s| s.class);
    let head = from.next_multiple_of(PER).min(to);
    let tail = (to / PER * PER).max(head);
    let both = before.filter(|_| before == after);
    for (from, to, class) in [(from, head, before), (head, tail, both), (tail, to, after)] {
        if from < to {
            lost(v, pages, (from, to), class, part);
        }
    }
}

fn lost<P: Platform>(
    v: View<'_, P>,
    pages: &Pages,
    (from, to): (u64, u64),
    class: Option<(Pool, u64)>,
    part: &mut Part,
) {
    let at = Offset(from << arena::MIN_SHIFT);
    let class = class.filter(|(_, c)| (to - from).is_multiple_of(1 << c));
    let whole = from.is_multiple_of(PER) && to.is_multiple_of(PER);
    let mut evidence = vec![pages.cell_at(from / PER), pages.cell_at((to - 1) / PER)];
    // A block that changes hands is written to, and one that is taken or given back changes the list.
    evidence.extend(v.evidence(&[0, 8, 16, 24, 32, 40].map(|o| at.plus(o))));
    let what = match class {
        Some((pool, class)) => {
            let head = pool_at(pool, class);
            evidence.extend(v.evidence(&[head, head.plus(8)]));
            let n = (to - from) >> class;
            format!("{n} blocks of {} bytes ({pool:?}) are in use and nobody's", 64u64 << class)
        }
        None if whole => format!("{} pages are in use and nobody's", (to - from) / PER),
        None => format!("{} bytes are in use and nobody's", (to - from) << arena::MIN_SHIFT),
    };
    let fix = match class {
        Some((pool, class)) => Fix::Blocks(pool, class, from, (to - from) >> class),
        None if whole => Fix::Pages(from / PER, (to - from) / PER),
        None => Fix::Look,
    };
    part.push(Fault::Leaked, Who::Arena, at, what, evidence, fix);
}
