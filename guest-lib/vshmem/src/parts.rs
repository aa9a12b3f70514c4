//! What is left of an attached segment, as the kernel counts it.
//!
//! The kernel counts mappings, not calls of `shmat`: a hole in the middle makes two of one, and so
//! does protecting a piece differently. They do not grow together again.

/// A piece of address space with one protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub from: usize,
    pub to: usize,
    pub protection: i32,
}

impl Part {
    fn meets(&self, from: usize, to: usize) -> bool {
        self.from < to && from < self.to
    }

    /// The parts before, inside and behind `from..to`; empty ones are left out later.
    fn cut(self, from: usize, to: usize) -> [Self; 3] {
        let (from, to) = (from.max(self.from), to.min(self.to));
        [Self { to: from, ..self }, Self { from, to, ..self }, Self { from: to, ..self }]
    }

    fn is_something(&self) -> bool {
        self.from < self.to
    }
}

/// `munmap` of `from..to`.
pub(crate) fn unmap(parts: &mut Vec<Part>, from: usize, to: usize) {
    let rest = parts.iter().flat_map(|p| {
        if p.meets(from, to) {
            let [before, _, behind] = p.cut(from, to);
            [before, behind]
        } else {
            [*p, Part { to: p.from, ..*p }]
        }
    });
    *parts = rest.filter(Part::is_something).collect();
}

/// `mprotect` of `from..to`.
pub(crate) fn protect(parts: &mut Vec<Part>, from: usize, to: usize, protection: i32) {
    let cut = parts.iter().flat_map(|p| {
        if p.meets(from, to) && p.protection != protection {
            let [before, inside, behind] = p.cut(from, to);
            [before, Part { protection, ..inside }, behind]
        } else {
            let nothing = Part { to: p.from, ..*p };
            [*p, nothing, nothing]
        }
    });
    *parts = cut.filter(Part::is_something).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: usize, to: usize, protection: i32) -> Part {
        Part { from, to, protection }
    }

    #[test]
    fn holes_split_ends_shorten_and_everything_vanishes() {
        let mut parts = vec![part(10, 20, 3)];
        unmap(&mut parts, 14, 16);
        assert_eq!(parts, [part(10, 14, 3), part(16, 20, 3)]);
        unmap(&mut parts, 0, 12);
        unmap(&mut parts, 19, 99);
        assert_eq!(parts, [part(12, 14, 3), part(16, 19, 3)]);
        unmap(&mut parts, 13, 17);
        assert_eq!(parts, [part(12, 13, 3), part(17, 19, 3)]);
        unmap(&mut parts, 0, 99);
        assert_eq!(parts, []);
    }

    #[test]
    fn another_protection_splits_the_same_does_not_and_nothing_grows_together() {
        let mut parts = vec![part(10, 20, 3)];
        protect(&mut parts, 12, 14, 3);
        assert_eq!(parts.len(), 1);
        protect(&mut parts, 12, 14, 1);
        assert_eq!(parts, [part(10, 12, 3), part(12, 14, 1), part(14, 20, 3)]);
        protect(&mut parts, 0, 99, 3);
        assert_eq!(parts, [part(10, 12, 3), part(12, 14, 3), part(14, 20, 3)]);
    }
}
