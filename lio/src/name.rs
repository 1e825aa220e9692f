//! Names and numbers of LIO, validated at the border.

use std::fmt;
use std::str::FromStr;

use host::{ParseError, Secret, Wwid};

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = ParseError;
            fn try_from(text: &str) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The tag of a target portal group: the N of `tpgt_N`, 0 to 65535, default 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tag(pub u16);

impl Default for Tag {
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A logical unit number, 0 to 16383: what flat space addressing can say (SAM-5, 4.7.7.3). Many initiators look no further than 255.
///
/// ```
/// use lio::Lun;
/// assert_eq!(Lun::from(7), Lun::try_from(7u64)?);
/// assert!(Lun::try_from(16384u64).is_err());
/// # Ok::<(), lio::ParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "u64", try_from = "u64"))]
pub struct Lun(u16);

impl Lun {
    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl From<u8> for Lun {
    fn from(number: u8) -> Self {
        Self(u16::from(number))
    }
}

impl From<Lun> for u64 {
    fn from(lun: Lun) -> Self {
        Self::from(lun.0)
    }
}

impl TryFrom<u64> for Lun {
    type Error = ParseError;

    fn try_from(number: u64) -> Result<Self, ParseError> {
        match u16::try_from(number) {
            Ok(number) if number < 16384 => Ok(Self(number)),
            _ => Err(ParseError::new("logical unit number", number.to_string(), "0 to 16383")),
        }
    }
}

impl FromStr for Lun {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number: u64 = text
            .parse()
            .map_err(|_| ParseError::new("logical unit number", text, "0 to 16383, in decimal"))?;
        number.try_into()
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a backstore: 1 to 127 of letters, digits and `-_.:+@`, the N of `core/iblock_0/N`.
///
/// `hba_info` and `hba_mode` are files of the directory it would stand in, and refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackstoreName(String);

impl FromStr for BackstoreName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("backstore name", text, reason));
        match text {
            "" => bad("it is empty"),
            "." | ".." | "hba_info" | "hba_mode" => bad("this name is taken by the directory it stands in"),
            _ if text.len() > 127 => bad("at most 127 bytes"),
            _ if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+@".contains(&b)) => {
                bad("only letters, digits and -_.:+@")
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(BackstoreName);

/// The company of a disk's NAA identifier, 24 bits; default 0x001405, which LIO has always used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "u32", try_from = "u32"))]
pub struct CompanyId(u32);

impl Default for CompanyId {
    fn default() -> Self {
        Self(0x00_1405)
    }
}

impl TryFrom<u32> for CompanyId {
    type Error = ParseError;

    fn try_from(number: u32) -> Result<Self, ParseError> {
        // target_wwn_company_id_store answers EOVERFLOW at 0x1000000 (target_core_configfs.c).
        match number {
            0..0x0100_0000 => Ok(Self(number)),
            _ => Err(ParseError::new("company id", format!("{number:#x}"), "at most 0xffffff")),
        }
    }
}

impl From<CompanyId> for u32 {
    fn from(id: CompanyId) -> Self {
        id.0
    }
}

impl fmt::Display for CompanyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#08x}", self.0)
    }
}

/// The unit serial number of a disk (`wwn/vpd_unit_serial`): 1 to 253 printable characters without `/` and blanks, with at least one
/// hexadecimal digit. Initiators know the disk by it, so it must be the same on every node that exports the disk.
///
/// The kernel puts it raw into a path (`DBROOT/pr/aptpl_SERIAL`, `target_core_pr.c`), hence no `/`; it computes the NAA identifier from its
/// hexadecimal digits (`target_core_spc.c`), hence at least one.
///
/// ```
/// let serial: lio::UnitSerial = "3221815080c24cdc938f1f56a0bb1234".parse()?;
/// assert_eq!(serial.wwid().as_str(), "360014053221815080c24cdc938f1f56a");
/// # Ok::<(), lio::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitSerial(String);

impl FromStr for UnitSerial {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| Err(ParseError::new("unit serial", text, reason));
        match text {
            "" => bad("it is empty"),
            _ if text.len() > 253 => bad("at most 253 bytes"),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => bad("only printable ASCII without blanks"),
            _ if text.contains('/') || text.contains("..") => {
                bad("no '/' and no \"..\": the kernel makes a file name of it")
            }
            _ if !text.bytes().any(|b| b.is_ascii_hexdigit()) => {
                bad("at least one hexadecimal digit, else all such disks have the same identifier")
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

text_type!(UnitSerial);

impl UnitSerial {
    /// Derives a serial from a text that is the same on every node, for example `IQN lun 0`: 32 hexadecimal digits (FNV-1a, 128 bits).
    #[must_use]
    pub fn derived_from(text: &str) -> Self {
        let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
        Self(format!("{hash:032x}"))
    }

    /// The NAA identifier of VPD page 0x83: `6`, the company's 6 digits, and the first 25 hexadecimal digits of the serial, other
    /// characters skipped, filled up with zeros (`spc_gen_naa_6h_vendor_specific`, `target_core_spc.c`).
    #[must_use]
    pub fn naa(&self, company: CompanyId) -> String {
        format!("6{:06x}{}", company.0, self.digits())
    }

    /// The part of the NAA identifier that comes from the serial: two disks of the same company with the same are one to initiators.
    pub(crate) fn digits(&self) -> String {
        let mut digits = Vec::with_capacity(25);
        let found = self.0.bytes().filter(u8::is_ascii_hexdigit).map(|b| b.to_ascii_lowercase());
        digits.extend(found.take(25));
        digits.resize(25, b'0');
        // Nothing but ASCII is in it.
        String::from_utf8(digits).unwrap_or_default()
    }

    /// The identifier that multipath and `scsi_id` show for the disk, with LIO's own company: `3` and the NAA.
    #[must_use]
    pub fn wwid(&self) -> Wwid {
        self.wwid_of(CompanyId::default())
    }

    /// The same with another company.
    #[must_use]
    pub fn wwid_of(&self, company: CompanyId) -> Wwid {
        match format!("3{}", self.naa(company)).parse() {
            Ok(wwid) => wwid,
            // 33 hexadecimal digits are a WWID whatever the rules become.
            Err(_) => unreachable!("33 hexadecimal digits are no WWID"),
        }
    }
}

/// A field of the INQUIRY data: printable ASCII, `vendor_id` at most 8 bytes, `product_id` at most 16, `revision` at most 4.
macro_rules! inquiry_type {
    ($name:ident, $max:literal, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                let ok = (1..=$max).contains(&text.len())
                    && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
                    && text.trim() == text;
                match ok {
                    true => Ok(Self(text.to_owned())),
                    false => Err(ParseError::new(
                        $what,
                        text,
                        concat!("1 to ", $max, " printable ASCII characters, no blank at the ends"),
                    )),
                }
            }
        }

        text_type!($name);
    };
}

inquiry_type!(
    VendorId,
    8,
    "vendor id",
    "The vendor of the INQUIRY data (`wwn/vendor_id`): 1 to 8 printable characters, LIO's default is `LIO-ORG`."
);
inquiry_type!(
    ProductId,
    16,
    "product id",
    "The product of the INQUIRY data (`wwn/product_id`): 1 to 16 printable characters. VMware looks at the first 8."
);

inquiry_type!(
    Revision,
    4,
    "revision",
    "The revision of the INQUIRY data (`wwn/revision`): 1 to 4 printable characters."
);

/// A name of LIO's own: letters, digits and `-_.:+@`.
macro_rules! word_type {
    ($name:ident, $max:literal, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                // NULL is how LIO says "none".
                let ok = (1..=$max).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+@".contains(&b))
                    && !matches!(text, "." | "..")
                    && !text.starts_with("NULL");
                match ok {
                    true => Ok(Self(text.to_owned())),
                    false => Err(ParseError::new(
                        $what,
                        text,
                        concat!("1 to ", $max, " letters, digits and -_.:+@, not beginning with NULL"),
                    )),
                }
            }
        }

        text_type!($name);
    };
}

word_type!(
    GroupName,
    127,
    "group name",
    "The name of an asymmetric access group or of a group of backstores: 1 to 127 of letters, digits and `-_.:+@`."
);
word_type!(
    AclTag,
    63,
    "tag of an ACL",
    "The label of an ACL (`tag`): 1 to 63 of letters, digits and `-_.:+@`."
);

/// A CHAP user name: 1 to 255 bytes, no line break, not beginning with `NULL`, by which LIO means "unset".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChapUser(String);

impl FromStr for ChapUser {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match chap_text(text.as_bytes()) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(reason) => Err(ParseError::new("CHAP user name", text, reason)),
        }
    }
}

text_type!(ChapUser);

/// What LIO can store as name or password (`__DEF_NACL_AUTH_STR`, `iscsi_target_configfs.c`).
fn chap_text(bytes: &[u8]) -> Result<(), &'static str> {
    match bytes {
        [] => Err("it is empty"),
        _ if bytes.len() > 255 => Err("at most 255 bytes"),
        _ if bytes.starts_with(b"NULL") => Err("LIO takes a text that begins with NULL for \"unset\""),
        _ if bytes.iter().any(|b| matches!(b, 0 | b'\n' | b'\r')) => Err("no line break and no NUL byte"),
        _ => Ok(()),
    }
}

/// A CHAP password that LIO can store: 1 to 255 bytes, no line break, no NUL, not beginning with `NULL`.
///
/// RFC 7143 section 9.2.1 wants at least 12 bytes; shorter ones are accepted, since initiators in the field have them.
#[derive(Debug, PartialEq, Eq)]
pub struct ChapSecret(Secret);

impl ChapSecret {
    /// Checks a secret.
    ///
    /// # Errors
    /// LIO cannot store it; the error does not show it.
    pub fn new(secret: Secret) -> Result<Self, ParseError> {
        match chap_text(secret.expose()) {
            Ok(()) => Ok(Self(secret)),
            Err(reason) => Err(ParseError::new("CHAP password", "***", reason)),
        }
    }

    /// Takes what the kernel already holds, whatever it is.
    pub(crate) fn from_kernel(secret: Secret) -> Self {
        Self(secret)
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

impl Clone for ChapSecret {
    fn clone(&self) -> Self {
        // Another owner of the same memory: plans and specifications are cloned, the bytes are not.
        Self(self.0.share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serials_give_the_identifier_that_multipath_shows() {
        for (serial, wwid) in [
            ("3221815080c24cdc938f1f56a0bb1234", "360014053221815080c24cdc938f1f56a"),
            ("32218150-80c2-4cdc-938f-1f56a0bb1234", "360014053221815080c24cdc938f1f56a"),
            ("ABCDEF01", "36001405abcdef0100000000000000000"),
            ("xyz-1", "36001405100000000000000000000000"),
        ] {
            let serial: UnitSerial = serial.parse().expect(serial);
            let shown = serial.wwid();
            assert!(shown.as_str().starts_with(wwid), "{shown} {wwid}");
            assert_eq!(shown.as_str().len(), 33);
        }
        let company = CompanyId::try_from(0x00c0ff).expect("24 bits");
        assert!(UnitSerial::derived_from("x").naa(company).starts_with("600c0ff"));
    }

    #[test]
    fn what_the_kernel_would_misread_is_refused() {
        for bad in ["", "a/b", "..", "xyz-", "a b", "a\n"] {
            assert!(bad.parse::<UnitSerial>().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "hba_info", "a/b", "a b", "ü"] {
            assert!(bad.parse::<BackstoreName>().is_err(), "{bad:?}");
        }
        assert!("NULLuser".parse::<ChapUser>().is_err() && "a\n".parse::<ChapUser>().is_err());
        let error = ChapSecret::new(Secret::from("hunter2\n")).expect_err("line break");
        assert!(!error.to_string().contains("hunter2"));
        assert!("123456789".parse::<VendorId>().is_err() && "Virtual disk".parse::<ProductId>().is_ok());
        assert!(CompanyId::try_from(0x0100_0000).is_err());
    }

    proptest! {
        #[test]
        fn derived_serials_are_valid_and_differ(a in ".{0,40}", b in ".{0,40}") {
            let (x, y) = (UnitSerial::derived_from(&a), UnitSerial::derived_from(&b));
            prop_assert_eq!(&x.to_string().parse::<UnitSerial>().expect("valid"), &x);
            prop_assert_eq!(a == b, x.wwid() == y.wwid());
        }
    }
}
