// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be wrong with what C passes, and what must not reach C.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void, CStr, OsStr};
use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;

use vmclock::Reading;

use crate::error::{vmclock_error, vmclock_result, Failure};
use crate::reading::{vmclock_reading, FILLED};

/// Runs what C has called. A panic, which would be a defect of ours, ends here: unwinding into C would abort the
/// process.
#[inline(always)]
pub(crate) fn guarded(
    mut error: Option<&mut MaybeUninit<vmclock_error>>,
    work: impl FnOnce(Option<&mut MaybeUninit<vmclock_error>>) -> vmclock_result,
) -> vmclock_result {
    catch_unwind(AssertUnwindSafe(|| work(error.as_deref_mut()))).unwrap_or_else(|_| Failure::Internal.report(error))
}

/// The same for what does not give a result code.
#[inline(always)]
pub(crate) fn guarded_or<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

/// A path that C passes; `None` for NULL.
///
/// # Safety
/// It is NULL or a string that ends with a zero, which stays as it is for as long as the result is used.
pub(crate) unsafe fn path<'a>(path: *const c_char) -> Option<&'a Path> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not NULL, and otherwise what the caller promises.
    let text = unsafe { CStr::from_ptr(path) };
    Some(Path::new(OsStr::from_bytes(text.to_bytes())))
}

/// Bytes that C passes; none for NULL.
///
/// # Safety
/// There are `len` of them, which stay as they are for as long as the result is used.
pub(crate) unsafe fn bytes<'a>(bytes: *const c_void, len: usize) -> Option<&'a [u8]> {
    // Longer than any object can be: somebody's negative number.
    if bytes.is_null() || isize::try_from(len).is_err() {
        return None;
    }
    // SAFETY: not NULL, of a possible length, and otherwise what the caller promises.
    Some(unsafe { std::slice::from_raw_parts(bytes.cast(), len) })
}

/// Writes a text to a buffer of C's, cut to what fits and ended with a zero. Gives the length of the whole text, as
/// `snprintf` does.
///
/// # Safety
/// The buffer is NULL or has `size` bytes that may be written.
pub(crate) unsafe fn write_text(buffer: *mut c_char, size: usize, text: &dyn fmt::Display) -> usize {
    let mut empty = [];
    let bytes: &mut [MaybeUninit<u8>] = if buffer.is_null() || isize::try_from(size).is_err() {
        &mut empty
    } else {
        // SAFETY: not NULL, of a possible length, and otherwise what the caller promises; nothing is read.
        unsafe { std::slice::from_raw_parts_mut(buffer.cast(), size) }
    };
    let mut text_in = Text { bytes, kept: 0, whole: 0, full: false };
    // What it refuses does not fit, and `Text` never refuses.
    let _ = write!(text_in, "{text}");
    text_in.end()
}

/// A text in a buffer, cut between two characters, and how long all of it would be.
struct Text<'a> {
    bytes: &'a mut [MaybeUninit<u8>],
    kept: usize,
    whole: usize,
    full: bool,
}

impl Text<'_> {
    fn end(self) -> usize {
        if let Some(end) = self.bytes.get_mut(self.kept) {
            end.write(0);
        }
        self.whole
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.whole += text.len();
        for character in text.chars() {
            // One byte stays free for the zero.
            self.full |= self.kept + character.len_utf8() >= self.bytes.len();
            if self.full {
                return Ok(());
            }
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                self.bytes[self.kept].write(byte);
                self.kept += 1;
            }
        }
        Ok(())
    }
}

/// A text in an array of C's, cut to what fits and ended with a zero.
pub(crate) fn text_in<const SIZE: usize>(text: &dyn fmt::Display) -> [c_char; SIZE] {
    let mut array = [0; SIZE];
    // SAFETY: the array has that many bytes.
    unsafe { write_text(array.as_mut_ptr(), SIZE, text) };
    array
}

const _: () = assert!(Reading::WORDS * size_of::<u64>() <= std::mem::offset_of!(vmclock_reading, filled));

/// Keeps a reading where C wants it.
#[inline(always)]
pub(crate) fn put_reading(place: &mut MaybeUninit<vmclock_reading>, reading: Reading) {
    put_words(place, |put| {
        for (index, word) in reading.to_words().into_iter().enumerate() {
            put(index, word);
        }
        true
    });
}

/// Keeps the words of a reading where C wants it. It is one only if `give` says so, once it has given all of them.
#[inline(always)]
pub(crate) fn put_words(
    place: &mut MaybeUninit<vmclock_reading>,
    give: impl FnOnce(&mut dyn FnMut(usize, u64)) -> bool,
) -> bool {
    let place = place.as_mut_ptr();
    // SAFETY: the words come first in the place, no fewer than these (checked above); it is borrowed, and all of it may
    // be uninitialised.
    let words = unsafe { &mut *place.cast::<[MaybeUninit<u64>; Reading::WORDS]>() };
    let done = give(&mut |index, word| {
        words[index].write(word);
    });
    if done {
        // SAFETY: a field of the same place, which is not read.
        let filled = unsafe { &raw mut (*place).filled };
        // SAFETY: as above.
        unsafe { filled.write(FILLED) };
    }
    done
}

/// The reading that C has kept, if it was filled by us. Even if C has changed it since: any words make a reading.
#[inline(always)]
pub(crate) fn reading(kept: Option<&vmclock_reading>) -> Result<Reading, Failure> {
    let kept = kept.ok_or(Failure::Argument("reading is NULL"))?;
    if kept.filled != FILLED {
        return Err(Failure::Argument("reading was not filled by vmclock_now(): it failed, or was not called"));
    }
    let [words @ .., _, _] = &kept.words;
    Ok(Reading::from_words(words))
}
