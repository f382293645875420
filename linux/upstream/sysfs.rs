// SPDX-License-Identifier: GPL-2.0
//! Attributes of a device node in sysfs (`/sys/class/misc/NAME/`), that everyone may read.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::ffi::c_char;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::Formatter;

use super::miscdevice::{MiscDevice, Registration};

/// Where an attribute's text goes.
pub(crate) type Text<'a> = Formatter<'a>;

/// An attribute's value.
pub(crate) trait Show<T> {
    /// Writes it, with a line feed at its end.
    fn show(device: &T, text: &mut Text<'_>) -> Result;
}

/// The attributes of the nodes of a `T`: to be made by [`attributes`].
///
/// # Invariants
///
/// `groups` are what the kernel expects, and each attribute's function is [`show`] for a `T`.
pub(crate) struct Groups<T> {
    groups: [*const bindings::attribute_group; 2],
    _for: PhantomData<fn(&T)>,
}

// SAFETY: they are never changed, neither here nor by sysfs.
unsafe impl<T> Sync for Groups<T> {}

impl<T> Groups<T> {
    /// # Safety
    ///
    /// The group must be what the kernel expects, and each attribute's function must be [`show`] for a `T`.
    pub(crate) const unsafe fn new(group: &'static Static<bindings::attribute_group>) -> Self {
        Self { groups: [group.get(), core::ptr::null()], _for: PhantomData }
    }

    pub(super) fn as_ptr(&'static self) -> *mut *const bindings::attribute_group {
        (&raw const self.groups).cast_mut().cast()
    }
}

/// A structure of the kernel's that is never changed, neither here nor there.
pub(crate) struct Static<T>(T);

// SAFETY: whoever made it vouches that nobody changes it, and that any thread may read what it refers to.
unsafe impl<T> Sync for Static<T> {}

impl<T> Static<T> {
    /// # Safety
    ///
    /// Nobody may change it, nor what it points to but for what the kernel locks itself; and that must be static.
    pub(crate) const unsafe fn new(value: T) -> Self {
        Self(value)
    }

    pub(crate) const fn get(&'static self) -> *const T {
        &raw const self.0
    }
}

impl Static<bindings::device_attribute> {
    /// The part of it that lists of attributes have.
    pub(crate) const fn attribute(&'static self) -> *mut bindings::attribute {
        (&raw const self.0.attr).cast_mut()
    }
}

pub(crate) const fn attribute(
    name: &'static CStr,
    show: unsafe extern "C" fn(*mut bindings::device, *mut bindings::device_attribute, *mut c_char) -> isize,
) -> Static<bindings::device_attribute> {
    // SAFETY: the name is static, and sysfs only reads an attribute.
    unsafe {
        Static::new(bindings::device_attribute {
            attr: bindings::attribute {
                name: kernel::str::as_char_ptr_in_const_context(name),
                mode: 0o444,
                // There is more where locks are watched.
                ..pin_init::zeroed()
            },
            __bindgen_anon_1: bindings::device_attribute__bindgen_ty_1 { show: Some(show) },
            ..pin_init::zeroed()
        })
    }
}

/// A group of the attributes in a list, with a null pointer at its end.
pub(crate) const fn group<const N: usize>(
    list: &'static Static<[*mut bindings::attribute; N]>,
) -> Static<bindings::attribute_group> {
    // SAFETY: the list is static, and sysfs only reads groups and lists.
    unsafe {
        Static::new(bindings::attribute_group {
            __bindgen_anon_2: bindings::attribute_group__bindgen_ty_2 { attrs: list.get().cast_mut().cast() },
            ..pin_init::zeroed()
        })
    }
}

/// What sysfs calls for an attribute of a `T` whose value is `S`.
///
/// # Safety
///
/// To be called by sysfs, for the device of a [`Registration<T>`].
pub(crate) unsafe extern "C" fn show<T: MiscDevice, S: Show<T>>(
    dev: *mut bindings::device,
    _attribute: *mut bindings::device_attribute,
    place: *mut c_char,
) -> isize {
    // SAFETY: as the caller says; sysfs waits for this before the device is removed, and gives a page of its own.
    let (device, place) =
        unsafe { (Registration::<T>::of_device(dev), core::slice::from_raw_parts_mut(place.cast::<u8>(), PAGE_SIZE)) };
    let mut text = Formatter::new(place);
    match S::show(device, &mut text) {
        Ok(()) => text.bytes_written() as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// Makes the [`Groups`] of a type: a static of this name, of attributes and functions that write their values.
macro_rules! attributes {
    ($groups:ident of $device:ty { $($name:literal: $show:expr,)+ }) => {
        pub(crate) static $groups: $crate::upstream::sysfs::Groups<$device> = {
            use $crate::upstream::sysfs;
            // SAFETY: the attributes are statics, which sysfs only reads.
            static LIST: sysfs::Static<[*mut ::kernel::bindings::attribute; 1 + [$($name),+].len()]> = unsafe {
                sysfs::Static::new([$({
                    enum Value {}
                    impl sysfs::Show<$device> for Value {
                        fn show(device: &$device, text: &mut sysfs::Text<'_>) -> Result {
                            const SHOW: fn(&$device, &mut sysfs::Text<'_>) -> Result = $show;
                            SHOW(device, text)
                        }
                    }
                    static ATTRIBUTE: sysfs::Static<::kernel::bindings::device_attribute> =
                        sysfs::attribute($name, sysfs::show::<$device, Value>);
                    ATTRIBUTE.attribute()
                },)+
                ::core::ptr::null_mut()])
            };
            static GROUP: sysfs::Static<::kernel::bindings::attribute_group> = sysfs::group(&LIST);
            // SAFETY: it is made of attributes of a `$device`, whose list ends with a null pointer.
            unsafe { sysfs::Groups::new(&GROUP) }
        };
    };
}
pub(crate) use attributes;
