//! Image configurations (image-spec `config.md`), read from untrusted bytes.

use oci_spec::image::ImageConfiguration;

use super::digest::{ChainId, DiffId};
use super::manifest::{DocumentError, MAX_CONFIG_BYTES, MAX_LAYERS, json, within};
use super::platform::Platform;

/// An image's configuration with its diffIDs parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    /// All of it, as the specification has it.
    pub spec: ImageConfiguration,
    /// `rootfs.diff_ids`, lowest layer first.
    pub diff_ids: Vec<DiffId>,
}

/// What a person wants to know of an image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// When it was made, as its maker wrote it.
    pub created: Option<String>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// `Entrypoint` followed by `Cmd`.
    pub command: Vec<String>,
    /// The user it runs as unless told otherwise.
    pub user: Option<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `port/protocol` each.
    pub exposed_ports: Vec<String>,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
}

impl ImageConfig {
    /// Parses a configuration.
    ///
    /// # Errors
    /// If it is too large, not of its shape, or names a malformed diffID or too many.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        within(bytes, "config", MAX_CONFIG_BYTES)?;
        let spec: ImageConfiguration = json(bytes, "config")?;
        let texts = spec.rootfs().diff_ids();
        if texts.len() > MAX_LAYERS {
            return Err(DocumentError::TooMany { what: "diff_ids", count: texts.len(), max: MAX_LAYERS });
        }
        let parse = |text: &String| {
            text.parse().map(DiffId).map_err(|source| DocumentError::Digest { what: "a diff_id", source })
        };
        let diff_ids = texts.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { spec, diff_ids })
    }

    /// Fails unless there is one diffID a layer.
    ///
    /// # Errors
    /// [`DocumentError::LayerCount`].
    pub fn check_layers(&self, layers: usize) -> Result<(), DocumentError> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        Err(DocumentError::LayerCount { layers, diff_ids: self.diff_ids.len() })
    }

    /// The platform it says it is for.
    pub fn platform(&self) -> Platform {
        Platform::new(
            &self.spec.os().to_string(),
            &self.spec.architecture().to_string(),
            self.spec.variant().as_deref(),
        )
    }

    /// The chainID of all layers; `None` for an image without any.
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of(&self.diff_ids)
    }

    /// What a person wants to know.
    pub fn summary(&self) -> ImageSummary {
        let mut summary = ImageSummary {
            created: self.spec.created().clone(),
            platform: self.platform().to_string(),
            ..ImageSummary::default()
        };
        if let Some(config) = self.spec.config() {
            let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
            let text = |t: &Option<String>| t.clone().filter(|t| !t.is_empty());
            summary.command = list(config.entrypoint());
            summary.command.extend(list(config.cmd()));
            summary.user = text(config.user());
            summary.working_dir = text(config.working_dir());
            summary.env = list(config.env());
            summary.exposed_ports = list(config.exposed_ports());
            summary.exposed_ports.sort_unstable();
            summary.stop_signal = text(config.stop_signal());
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn config(config: &str, diff: &str) -> Result<ImageConfig, DocumentError> {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
        );
        ImageConfig::parse(text.as_bytes())
    }

    #[test]
    fn a_summary_joins_entrypoint_and_command() {
        let config = config(
            r#"{"Entrypoint":["/a"],"Cmd":["b"],"User":"","ExposedPorts":{"80/tcp":{}},"Volumes":null,"Labels":null}"#,
            DIFF,
        )
        .unwrap();
        let summary = config.summary();
        assert_eq!(summary.command, ["/a", "b"]);
        assert_eq!(summary.user, None);
        assert_eq!(summary.exposed_ports, ["80/tcp"]);
        assert_eq!(summary.platform, "linux/amd64");
    }

    #[test]
    fn a_config_without_run_parameters_is_an_image() {
        assert!(config("null", DIFF).unwrap().summary().command.is_empty());
    }

    #[test]
    fn a_path_as_diff_id_is_refused() {
        assert!(matches!(config("{}", "sha256:../../x"), Err(DocumentError::Digest { .. })));
    }

    #[test]
    fn a_config_that_counts_other_layers_than_its_manifest_is_refused() {
        let config = config("{}", DIFF).unwrap();
        assert!(config.check_layers(1).is_ok());
        assert!(matches!(config.check_layers(2), Err(DocumentError::LayerCount { .. })));
    }

    #[test]
    fn a_config_one_byte_over_the_limit_is_refused() {
        let mut bytes = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let max = usize::try_from(MAX_CONFIG_BYTES).unwrap();
        bytes.resize(max, b' ');
        assert!(ImageConfig::parse(&bytes).is_ok());
        bytes.push(b' ');
        assert!(matches!(ImageConfig::parse(&bytes), Err(DocumentError::TooLarge { .. })));
    }
}
