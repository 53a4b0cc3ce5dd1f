//! Names as the source has them.

use std::borrow::Cow;

/// A name out of an event. What the connector reads in the log it takes byte by byte (`PgOutputMessageDecoder`, 3.3.1),
/// each as a character, and the sign of a byte over 127 becomes the upper half of that: `é` is sent as U+FFC3 U+FFA9, while
/// the snapshot has it right. So what is ASCII but for characters from U+FF80 on, whose lower halves are UTF-8, is put right.
///
/// Some letters of Korean and Japanese in half their width are there too, and currency signs and arrows. To be UTF-8 by
/// accident each of their groups has to begin with what stands for a first byte, a vowel of Korean or such a sign, and to go
/// on with what stands for the bytes behind it, consonants: as no syllable does.
#[inline]
pub fn mended(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.is_ascii() { name } else { put_right(name) }
}

fn put_right(name: Cow<'_, str>) -> Cow<'_, str> {
    let byte = |character: char| match u32::from(character) {
        code @ (0..0x80 | 0xff80..=0xffff) => Some(code as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = name.chars().map(byte).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map_or(name, Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the connector reads it in the log.
    fn sent(name: &str) -> String {
        name.bytes().map(|byte| char::from_u32(u32::from(byte as i8 as u16)).unwrap()).collect()
    }

    #[test]
    fn what_was_read_byte_by_byte_is_put_right_and_nothing_else_is_touched() {
        assert_eq!(sent("Sélect"), "S\u{ffc3}\u{ffa9}lect");
        for name in ["Sélect", "日本 ünï 😀", "é", "ﾜﾝ", "plain", ""] {
            assert_eq!((&*mended(sent(name).into()), &*mended(name.into())), (name, name));
        }
        // Half of their width, and a character of another kind beside what would be put right.
        for name in ["ﾊﾝｶｸ", "Ａ１", "ﾡￂ", "ﾡￂﾤ", "￡100", "é\u{ffc3}\u{ffa9}", "\u{ffc3}", "\u{ffff}"]
        {
            assert_eq!(mended(name.into()), name);
        }
    }
}
