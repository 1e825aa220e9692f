//! The file as it is, fields in the order of their names, as rtslib sorts them.

use std::collections::BTreeMap;
use std::fmt;

use host::Secret;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spec::{AluaGroupSpec, LuGroup};

/// A password: from the text straight into a secret.
#[derive(Debug)]
pub(super) struct Hidden(pub(super) Secret);

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0.expose()) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Err(serde::ser::Error::custom("a password is no UTF-8, which JSON needs")),
        }
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Hidden;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a password")
            }
            fn visit_str<E>(self, text: &str) -> Result<Hidden, E> {
                Ok(Hidden(Secret::from(text)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A value: rtslib makes numbers of what looks like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    Number(i64),
    Flag(bool),
    Text(String),
}

impl Value {
    pub(super) fn of(text: &str) -> Self {
        match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => u8::from(*flag).to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

pub(super) type Values = BTreeMap<String, Value>;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) fabric_modules: Vec<FabricModule>,
    #[serde(default)]
    pub(super) storage_objects: Vec<StorageObject>,
    #[serde(default)]
    pub(super) targets: Vec<Target>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) x_lio: Option<Sidecar>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct FabricModule {
    #[serde(default)]
    pub(super) discovery_enable_auth: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) discovery_mutual_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) discovery_mutual_userid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) discovery_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) discovery_userid: Option<String>,
    pub(super) name: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct StorageObject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aio: Option<bool>,
    #[serde(default)]
    pub(super) alua_tpgs: Vec<Values>,
    #[serde(default)]
    pub(super) attributes: Values,
    #[serde(default, skip_serializing)]
    pub(super) buffered_mode: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<String>,
    /// More of what is written to `control`, for `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) control: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dev: Option<String>,
    /// Of rtslib 2.2, where the kernel has it (6.17); the rtslib before skips a backstore that has it.
    #[serde(default, skip_serializing)]
    pub(super) exclusive: Option<bool>,
    #[serde(default, skip_serializing)]
    pub(super) hw_max_sectors: Option<u32>,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nullio: Option<bool>,
    pub(super) plugin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) readonly: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) write_back: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wwn: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) fabric: String,
    /// Of rtslib 2.2, which does not restore them.
    #[serde(default, skip_serializing)]
    pub(super) parameters: Values,
    #[serde(default)]
    pub(super) tpgs: Vec<Group>,
    pub(super) wwn: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Group {
    #[serde(default)]
    pub(super) attributes: Values,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_mutual_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_mutual_userid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_userid: Option<String>,
    #[serde(default = "yes")]
    pub(super) enable: bool,
    #[serde(default)]
    pub(super) luns: Vec<LunEntry>,
    #[serde(default)]
    pub(super) node_acls: Vec<NodeAcl>,
    #[serde(default)]
    pub(super) parameters: Values,
    #[serde(default)]
    pub(super) portals: Vec<Portal>,
    #[serde(default = "one")]
    pub(super) tag: u16,
}

fn yes() -> bool {
    true
}

fn one() -> u16 {
    1
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LunEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) alua_tg_pt_gp_name: Option<String>,
    pub(super) index: u64,
    pub(super) storage_object: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeAcl {
    #[serde(default)]
    pub(super) attributes: Values,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_mutual_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_mutual_userid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_password: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chap_userid: Option<String>,
    #[serde(default)]
    pub(super) mapped_luns: Vec<MappedLun>,
    pub(super) node_wwn: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MappedLun {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) alias: Option<String>,
    pub(super) index: u64,
    pub(super) tpg_lun: u64,
    #[serde(default)]
    pub(super) write_protect: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Portal {
    pub(super) ip_address: String,
    #[serde(default)]
    pub(super) iser: bool,
    #[serde(default)]
    pub(super) offload: bool,
    pub(super) port: u16,
}

/// What rtslib has no place for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// By `plugin/name`.
    #[serde(default)]
    pub(super) backstores: BTreeMap<String, MoreOfBackstore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cpus: Option<String>,
    /// Whether what all iSCSI targets share was said at all.
    #[serde(default)]
    pub(super) shared: bool,
    /// By `fabric/name/tag`.
    #[serde(default)]
    pub(super) groups: BTreeMap<String, MoreOfGroup>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MoreOfBackstore {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) alua: BTreeMap<crate::GroupName, AluaGroupSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) company: Option<crate::CompanyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lu_group: Option<LuGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) product: Option<crate::ProductId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<crate::Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vendor: Option<crate::VendorId>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MoreOfGroup {
    /// ACLs that see all LUNs whatever they are, rather than those that were there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) all_luns: Vec<host::Iqn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nexus: Option<host::Iqn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port_id: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) queue_depths: BTreeMap<host::Iqn, u16>,
}
