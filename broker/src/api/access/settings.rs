//! The configuration's keys about an issuer of tokens.

use std::path::PathBuf;

use super::issuer::IssuerRules;
use super::jwt::Expected;
use super::source::{Source, Url, of_file};
use crate::node::pem;
use crate::node::settings::Settings;

/// Clocks further apart than minutes are not a matter of leeway.
const LEEWAY_MOST_S: u64 = 600;

/// What `jwks`, `jwks_ca` and the `jwt_…` keys say; none without `jwks`. `served` is whether there is an HTTPS listener.
pub(crate) fn read(settings: &mut Settings, served: bool) -> Option<IssuerRules> {
    let jwks = settings.parsed::<String>("jwks", "the path of a JWKS file, or its URL");
    let ca = settings.parsed::<PathBuf>("jwks_ca", "the path of a PEM file");
    let issuer = settings.parsed::<String>("jwt_issuer", "what a token's `iss` must be");
    let audience = settings.parsed::<String>("jwt_audience", "what a token's `aud` must be, or hold");
    let role_claim = settings.parsed::<String>("jwt_role_claim", "the name of a claim");
    let role_claim = role_claim.unwrap_or_else(|| "tillsync_role".into());
    let leeway_s = settings.number("jwt_leeway_s", 30, 0..=LEEWAY_MOST_S);
    let Some(jwks) = jwks else {
        for (key, given) in
            [("jwks_ca", ca.map(|ca| ca.display().to_string())), ("jwt_issuer", issuer), ("jwt_audience", audience)]
        {
            if let Some(given) = given {
                settings.fault(key, given, "left out, or given together with `jwks`");
            }
        }
        return None;
    };
    if !served {
        settings.fault("jwks", &jwks, "left out, or `api` on: tokens are for the HTTPS listener");
    }
    let source = source(settings, &jwks, ca);
    let mut required = |key: &str, given: Option<String>, why: &str| {
        let given = given.filter(|given| !given.is_empty());
        if given.is_none() {
            settings.fault(key, "(missing)", format!("given together with `jwks`: {why}"));
        }
        given
    };
    let issuer = required("jwt_issuer", issuer, "a token of another issuer is refused");
    let audience = required("jwt_audience", audience, "a token for another service is refused");
    let expected = Expected { issuer: issuer?, audience: audience?, role_claim, leeway_s };
    Some(IssuerRules { source: source?, expected })
}

fn source(settings: &mut Settings, jwks: &str, ca: Option<PathBuf>) -> Option<Source> {
    if !jwks.contains("://") {
        return file(settings, PathBuf::from(jwks), ca);
    }
    let url = match jwks.parse::<Url>() {
        Ok(url) => url,
        Err(why) => {
            settings.fault(
                "jwks",
                jwks,
                format!("the path of a file, or a URL such as https://id.example/keys ({why})"),
            );
            return None;
        }
    };
    match &ca {
        Some(path) if !url.secure => settings.fault("jwks_ca", path.display(), "left out: `jwks` is plain http"),
        Some(path) => {
            if let Err(why) = pem::certificates(path) {
                settings.fault("jwks_ca", path.display(), format!("usable, but {why}"));
            }
        }
        None => {}
    }
    Some(Source::Url(url, ca))
}

/// A file that is of no use at the start is a fault; a URL may be away for a while.
fn file(settings: &mut Settings, path: PathBuf, ca: Option<PathBuf>) -> Option<Source> {
    if let Some(ca) = ca {
        settings.fault("jwks_ca", ca.display(), "left out: `jwks` is a file");
    }
    let unusable = match of_file(&path) {
        Ok(keys) if keys.len() > 0 => None,
        Ok(_) => Some("it holds no Ed25519, P-256 or RSA key to verify with".to_owned()),
        Err(why) => Some(why),
    };
    if let Some(why) = unusable {
        settings.fault("jwks", path.display(), format!("usable, but {why}"));
    }
    Some(Source::File(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut settings = Settings::parse(text).unwrap();
        let rules = read(&mut settings, true);
        match settings.finish(Some(rules)) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.0.into_iter().map(|fault| format!("{} {}", fault.key, fault.must_be)).collect(),
        }
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        std::fs::write(&file, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).unwrap();
        let found = faults(&format!("jwks = {file:?}\njwks_ca = \"/nowhere\"\njwt_leeway_s = 900"));
        for (key, why) in [
            ("jwks ", "holds no Ed25519"),
            ("jwks_ca ", "left out"),
            ("jwt_issuer ", "together with `jwks`"),
            ("jwt_audience ", "together with `jwks`"),
            ("jwt_leeway_s ", "0 to 600"),
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(key) && fault.contains(why)), "{key}: {found:?}");
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn what_goes_together_is_told() {
        let both = "jwt_issuer = \"i\"\njwt_audience = \"a\"\n";
        assert_eq!(faults(&format!("{both}jwks = \"https://id.example/keys\"")), Vec::<String>::new());
        assert_eq!(faults(&format!("{both}jwks = \"http://127.0.0.1:1/keys\"")), Vec::<String>::new());
        assert_eq!(faults(both).len(), 2);
        assert!(faults(&format!("{both}jwks = \"http://id.example/keys\""))[0].contains("plain http only"));
        assert!(faults(&format!("{both}jwks = \"/nowhere.json\""))[0].contains("No such file"));
        let ca = format!("{both}jwks = \"https://id.example/keys\"\njwks_ca = \"/nowhere.pem\"");
        assert!(faults(&ca)[0].starts_with("jwks_ca usable, but"));
        let mut settings = Settings::parse(&format!("{both}jwks = \"https://id.example/keys\"")).unwrap();
        read(&mut settings, false);
        assert!(settings.finish(Some(())).unwrap_err().to_string().contains("`api` on"));
    }
}
