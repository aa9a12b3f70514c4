//! Numbers in what is written to `/proc/sys`, as the kernel's `proc_dointvec` and
//! `proc_doulongvec_minmax` read them.

use crate::{Errno, Result};

/// Bytes of a number from which on the kernel distrusts it.
const LONGEST: usize = 21;
/// Bytes of one write that count.
const PAGE: usize = 4096;

fn skip_spaces(text: &mut &[u8]) {
    let is_space = |b: u8| matches!(b, b' ' | b'\t'..=b'\r');
    let n = text.iter().take_while(|b| is_space(**b)).count();
    *text = &text[n..];
}

/// One number at the beginning: whether it is negative, and its amount. Decimal, octal after 0,
/// hexadecimal after 0x; a space or the end must follow.
fn number(text: &mut &[u8]) -> Result<(bool, u64)> {
    let all = *text;
    let seen = &all[..all.len().min(LONGEST)];
    let negative = seen.len() > 1 && seen[0] == b'-';
    let digits = &seen[usize::from(negative)..];
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        return Err(Errno::EINVAL.into());
    }
    let (base, skip) = match digits {
        [b'0', b'x' | b'X', d, ..] if d.is_ascii_hexdigit() => (16, 2),
        [b'0', ..] => (8, 0),
        _ => (10, 0),
    };
    let value = |b: &u8| char::from(*b).to_digit(base).map(u64::from);
    let mut amount = 0u64;
    let mut n = usize::from(negative) + skip;
    for digit in digits[skip..].iter().map_while(value) {
        let next = amount.checked_mul(base.into()).and_then(|a| a.checked_add(digit));
        amount = next.ok_or(Errno::EINVAL)?;
        n += 1;
    }
    let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\n');
    if n == LONGEST || !all.get(n).is_none_or(ends) {
        return Err(Errno::EINVAL.into());
    }
    *text = &all[n..];
    Ok((negative, amount))
}

/// Hands up to `most` numbers to `put`; how many bytes that took. What was put before an error
/// stays.
fn each(
    text: &[u8],
    most: usize,
    mut put: impl FnMut(usize, bool, u64) -> Result<()>,
) -> Result<usize> {
    if text.is_empty() {
        return Ok(0);
    }
    let text = &text[..text.len().min(PAGE - 1)];
    let mut rest = text;
    for i in 0..most {
        skip_spaces(&mut rest);
        if rest.is_empty() {
            if i == 0 {
                return Err(Errno::EINVAL.into());
            }
            break;
        }
        let (negative, amount) = number(&mut rest)?;
        put(i, negative, amount)?;
    }
    skip_spaces(&mut rest);
    Ok(text.len() - rest.len())
}

/// Numbers of the size of an int.
pub fn ints(
    text: &[u8],
    most: usize,
    mut put: impl FnMut(usize, i64) -> Result<()>,
) -> Result<usize> {
    each(text, most, |i, negative, amount| {
        let n = i64::try_from(amount).map_err(|_| Errno::EINVAL)?;
        let n = if negative { -n } else { n };
        put(i, i32::try_from(n).map_err(|_| Errno::EINVAL)?.into())
    })
}

/// Unsigned numbers of the size of a long. (Kernels before 6.6 pass over negative ones in silence.)
pub fn longs(
    text: &[u8],
    most: usize,
    mut put: impl FnMut(usize, u64) -> Result<()>,
) -> Result<usize> {
    each(
        text,
        most,
        |i, negative, amount| {
            if negative { Err(Errno::EINVAL.into()) } else { put(i, amount) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn read(text: &str, most: usize) -> (Vec<i64>, Result<usize>) {
        let mut all = Vec::new();
        let taken = ints(text.as_bytes(), most, |i, n| {
            assert_eq!(i, all.len());
            all.push(n);
            Ok(())
        });
        (all, taken)
    }

    const INVALID: Result<usize> = Err(Error::Errno(Errno::EINVAL));

    #[test]
    fn a_line_of_numbers_is_read() {
        assert_eq!(read("250 32000\t32 128\n", 4), (vec![250, 32_000, 32, 128], Ok(17)));
        assert_eq!(read(" 7", 1), (vec![7], Ok(2)));
        assert_eq!(read("0x10 010 -3", 4), (vec![16, 8, -3], Ok(11)));
    }

    #[test]
    fn fewer_numbers_are_enough_and_more_are_left() {
        assert_eq!(read("1 2\n", 4), (vec![1, 2], Ok(4)));
        assert_eq!(read("1 2\n", 1), (vec![1], Ok(2)));
        assert_eq!(read("", 1), (vec![], Ok(0)));
    }

    #[test]
    fn what_is_no_number_is_refused_and_what_stood_before_it_counts() {
        for text in ["\n", "x", "-", "5x", "08", "--5", "+5", "5,6", "2147483648", "0x"] {
            assert_eq!(read(text, 1), (vec![], INVALID), "{text:?}");
        }
        assert_eq!(read("1 x", 4), (vec![1], INVALID));
        assert_eq!(read("-2147483648", 1).0, [-2_147_483_648]);
        assert_eq!(read("-2147483649", 1).1, INVALID);
        assert_eq!(read("000000000000000000005", 1).1, INVALID, "21 digits");
    }

    #[test]
    fn longs_take_all_their_bits_and_no_sign() {
        let read = |text: &str| {
            let mut got = None;
            let taken = longs(text.as_bytes(), 1, |_, n| {
                got = Some(n);
                Ok(())
            });
            (got, taken)
        };
        assert_eq!(read("18446744073709551615\n"), (Some(u64::MAX), Ok(21)));
        assert_eq!(read("18446744073709551616"), (None, INVALID));
        assert_eq!(read("-1\n"), (None, INVALID));
    }
}
