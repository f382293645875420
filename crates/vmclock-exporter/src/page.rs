// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page for people: one document with its style and its script, of which nothing else may run.

use hyper::body::Bytes;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Nothing but this style and this script, by their hashes; documents of the exporter; an icon that is empty. Text is
/// never parsed as HTML.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-I5rDbMetbft9XHKvohcyz5XGeytYB3/d+gb08jr054o='; \
    style-src 'sha256-iwW+UNq//08JmUAw2Zw7o+VDoyBJ9B8Mw9mpNXTa2UA='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The page, put together.
pub(crate) struct Page {
    body: Bytes,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self { body: HTML.replace("{style}", STYLE).replace("{script}", SCRIPT).into() }
    }

    pub(crate) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// What a browser may do with it.
    #[allow(clippy::unused_self)] // of this page, and no other
    pub(crate) const fn policy(&self) -> &'static str {
        POLICY
    }
}

#[cfg(test)]
mod tests {
    use base64::{prelude::BASE64_STANDARD, Engine};
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_has_the_hashes_of_style_and_script() {
        for text in [STYLE, SCRIPT] {
            let hash = format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
            assert!(POLICY.contains(&hash), "{hash} is not in POLICY");
        }
    }

    #[test]
    fn it_has_no_outside_resources() {
        let page = String::from_utf8(Page::new().body().to_vec()).expect("UTF-8");
        assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
        for outside in ["https://", "src=", "@import", "url(", "innerHTML", "style=", "{script}", "{style}"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("http://").count(), 1, "the name of SVG's elements");
    }
}
