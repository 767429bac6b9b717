//! From the first byte to CONNACK: which version, who it is, whether it may, and its session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, ConnectReturnCode, LastWill, LastWillProperties, Login,
    Packet, Protocol,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::certified::Certified;
use super::codec::{CONNECT, Codec, Decoded, Fault, Frame, Version};
use super::encode;
use super::intake::{Credentials, Identity, Inbound, Intake};
use super::leave::seconds;
use super::ration::{self, Share};
use super::refused::Refused;
use super::sessions::Claim;
use super::shared::Shared;
use super::topic_rules;
use super::wills::Will;
use crate::mailbox::{Change, Mailbox};

/// What client ids begin with that we give.
pub(super) const ASSIGNED: &str = "auto-";

/// A client that was let in, before anything else was said.
pub(super) struct Admitted {
    pub(super) codec: Codec,
    pub(super) who: Arc<Identity>,
    pub(super) claim: Claim,
    pub(super) share: Share,
    /// Which rights its subscriptions were looked at with.
    pub(super) rights: u64,
    /// Of a persistent session.
    pub(super) mailbox: Option<Arc<Mailbox>>,
    /// `None`: the client need not be heard from.
    pub(super) keepalive: Option<Duration>,
    pub(super) expiry: Duration,
    pub(super) will: Option<Will>,
    pub(super) receive_max: usize,
    pub(super) packet_bytes_max: usize,
    /// What came after CONNECT.
    pub(super) inbound: BytesMut,
}

/// What is known of a client besides its CONNECT.
#[derive(Clone, Copy)]
struct Shown<'a> {
    version: Version,
    peer: SocketAddr,
    certificate: Option<&'a Certified>,
}

struct Offer {
    connect: Connect,
    properties: Option<ConnectProperties>,
    will: Option<(LastWill, Option<LastWillProperties>)>,
    login: Option<Login>,
}

/// Reads CONNECT and answers it. Whatever the outcome, CONNACK is written where MQTT has one.
pub(super) async fn shake_hands<S, I>(
    stream: &mut S,
    peer: SocketAddr,
    certificate: Option<&Certified>,
    shared: &Arc<Shared<I>>,
) -> Result<Admitted, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Intake,
{
    let mut version = Version::V311;
    let mut out = BytesMut::new();
    let admitted = match read_connect(stream, shared, &mut version).await {
        Ok((offer, inbound)) => {
            let shown = Shown { version, peer, certificate };
            admit(offer, shown, inbound, shared, &mut out).await
        }
        Err(refused) => Err(refused),
    };
    if let Err(refused) = &admitted {
        refused.count(&shared.stats);
        if let Some(code) = refused.code(version) {
            encode::refuse(version, code, &mut out);
        }
    }
    // A client that does not take its CONNACK is noticed by the first write that follows.
    let _ = tokio::time::timeout(shared.config.connect_timeout, stream.write_all(&out)).await;
    admitted
}

async fn read_connect<S, I>(
    stream: &mut S,
    shared: &Shared<I>,
    version: &mut Version,
) -> Result<(Offer, BytesMut), Refused>
where
    S: AsyncRead + Unpin,
{
    let mut inbound = BytesMut::with_capacity(1024);
    let mut stopping = shared.stopping.subscribe();
    let read = async {
        loop {
            if let Some(known) = peek_version(&inbound, shared.config.packet_bytes_max)? {
                *version = known;
                let codec = Codec { version: known, packet_bytes_max: shared.config.packet_bytes_max };
                match codec.decode(&mut inbound).map_err(Refused::Fault)? {
                    Some(Decoded::Packet(Packet::Connect(connect, properties, will, will_properties, login))) => {
                        let will = will.map(|will| (will, will_properties));
                        return Ok((Offer { connect, properties, will, login }, inbound));
                    }
                    Some(_) => return Err(Refused::Fault(Fault::Protocol)),
                    None => {}
                }
            }
            if stream.read_buf(&mut inbound).await.unwrap_or(0) == 0 {
                return Err(Refused::Silent("closed before CONNECT"));
            }
        }
    };
    tokio::select! {
        read = tokio::time::timeout(shared.config.connect_timeout, read) => match read {
            Ok(read) => read,
            Err(_) => {
                shared.stats.connect_timeouts.inc();
                Err(Refused::Silent("no CONNECT in time"))
            }
        },
        _ = stopping.wait_for(|stopping| *stopping) => Err(Refused::Silent("stopping")),
    }
}

/// The protocol version of a CONNECT of which at least the name and level have come. One port serves both, and
/// rumqttd has a codec for each.
fn peek_version(buf: &[u8], packet_bytes_max: usize) -> Result<Option<Version>, Refused> {
    let Some(&first) = buf.first() else { return Ok(None) };
    if first != CONNECT << 4 {
        return Err(Refused::Silent("not MQTT"));
    }
    let Some(frame) = Frame::read(buf, packet_bytes_max).map_err(Refused::Fault)? else { return Ok(None) };
    let Some((length, rest)) = buf[frame.header..].split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    // The longest protocol name that there ever was is MQIsdp.
    if length > 6 {
        return Err(Refused::Silent("not MQTT"));
    }
    match (rest.get(..length), rest.get(length), rest.get(length + 1)) {
        (Some(b"MQTT"), Some(4), Some(flags)) if flags & 1 == 0 => Ok(Some(Version::V311)),
        (Some(b"MQTT"), Some(5), Some(flags)) if flags & 1 == 0 => Ok(Some(Version::V5)),
        // The reserved flag [MQTT-3.1.2-3].
        (Some(b"MQTT"), Some(4 | 5), Some(_)) => Err(Refused::Silent("malformed CONNECT")),
        (Some(b"MQTT"), Some(4 | 5), None) | (_, None, _) => Ok(None),
        _ => Err(Refused::Version),
    }
}

/// Decides in the order that costs least: id, credentials, will, then the session. On success `out` has the
/// CONNACK.
async fn admit<I: Intake>(
    offer: Offer,
    shown: Shown<'_>,
    inbound: BytesMut,
    shared: &Arc<Shared<I>>,
    out: &mut BytesMut,
) -> Result<Admitted, Refused> {
    let config = &shared.config;
    let version = shown.version;
    let clean = offer.connect.clean_session;
    let assigned = offer.connect.client_id.is_empty();
    // Before anything is judged: what changes from here on is seen below.
    let (accounts, rights) = (shared.changes.accounts(), shared.changes.rights());
    let who = Arc::new(identify(&offer, shown, shared).await?);
    let client = who.client.clone();
    let will = match offer.will {
        Some((will, properties)) => Some(check_will(shared, shown.peer, &who, will, properties)?),
        None => None,
    };
    let instead = shared.sessions.is_of(&who);
    let share = shared.rations.share(ration::of(&who, shown.peer.ip()), shared.policy.allowance(&who), instead);
    let mut share = share.ok_or(Refused::FullName)?;
    let limits = Limits::new(&offer.connect, offer.properties.as_ref(), version, shared);

    let mut claim =
        shared.sessions.claim(&who, !limits.expiry.is_zero(), config.takeover_timeout).await.map_err(Refused::from)?;
    if shared.changes.accounts() != accounts {
        // Perhaps it is this one whose right was taken away: it must prove it once more.
        return Err(Refused::Unavailable);
    }
    let clean = clean || !may_resume(&claim, &who, shared);
    let absent_will = claim.will.take().map(|(_, will)| will);
    // Overwritten when the connection ends as it should; this is for one that does not.
    claim.expires = Some(Instant::now() + config.session_expiry_max);
    let session_present = claim.kept && !clean;
    if !session_present {
        start_clean(&mut claim, shared).await?;
    }
    if clean {
        // Its session has ended now, and a will waits no longer than that. A client that resumes cancels it.
        if let Some(will) = absent_will {
            let shared = shared.clone();
            tokio::spawn(async move { will.publish(&shared).await });
        }
    }
    claim.owner = who.name.clone();
    let mailbox = open_mailbox(&mut claim, limits.expiry, shared).await?;
    share.subscribed(claim.filters.len());
    let admitted = Admitted {
        codec: Codec { version, packet_bytes_max: config.packet_bytes_max },
        who,
        claim,
        share,
        rights,
        mailbox,
        keepalive: limits.keepalive,
        expiry: limits.expiry,
        will,
        receive_max: limits.receive_max,
        packet_bytes_max: limits.packet_bytes_max,
        inbound,
    };
    match version {
        Version::V311 => out.extend_from_slice(&[0x20, 2, u8::from(session_present), 0]),
        Version::V5 => {
            let properties = ConnAckProperties {
                session_expiry_interval: limits.expiry_told,
                max_packet_size: u32::try_from(config.packet_bytes_max).ok(),
                assigned_client_identifier: assigned.then(|| client.to_string()),
                topic_alias_max: Some(config.topic_aliases_max),
                shared_subscription_available: Some(0),
                server_keep_alive: limits.keepalive_told,
                ..ConnAckProperties::default()
            };
            let ack = ConnAck { session_present, code: ConnectReturnCode::Success };
            V5.write(Packet::ConnAck(ack, Some(properties)), out).map_err(|_| Refused::Unavailable)?;
        }
    }
    Ok(admitted)
}

/// Who it is, and the client id that it has from here on.
async fn identify<I: Intake>(offer: &Offer, shown: Shown<'_>, shared: &Shared<I>) -> Result<Identity, Refused> {
    let Shown { version, peer, certificate } = shown;
    let mut client = client_id(&offer.connect, version)
        .inspect_err(|_| shared.policy.refused(&offer.connect.client_id, peer, "this client id cannot be used"))?;
    if let Some(properties) = &offer.properties {
        check_properties(properties)?;
    }
    let admission = shared.policy.connect(credentials(&client, offer, peer, certificate)).await?;
    if offer.connect.client_id.is_empty()
        && let Some(name) = &admission.name
    {
        // An id that only this name may come back with.
        let own = format!("{name}.{client}");
        client = if topic_rules::client_id(&own) { own.into() } else { client };
    }
    Ok(Identity { client, name: admission.name, kind: admission.kind })
}

fn client_id(connect: &Connect, version: Version) -> Result<Arc<str>, Refused> {
    match (connect.client_id.as_str(), connect.clean_session || version == Version::V5) {
        ("", true) => assigned_id().map(Arc::from).ok_or(Refused::Unavailable),
        (id, _) if topic_rules::client_id(id) => Ok(id.into()),
        _ => Err(Refused::ClientId),
    }
}

fn assigned_id() -> Option<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).ok()?;
    Some(format!("{ASSIGNED}{:016x}", u64::from_be_bytes(random)))
}

fn credentials<'a>(
    client: &'a str,
    offer: &'a Offer,
    peer: SocketAddr,
    certificate: Option<&'a Certified>,
) -> Credentials<'a> {
    let given = |of: fn(&Login) -> &String| {
        offer.login.as_ref().map(|login| of(login).as_str()).filter(|text| !text.is_empty())
    };
    let (username, password) = (given(|login| &login.username), given(|login| &login.password));
    Credentials { client, username, password, certificate, peer }
}

fn check_properties(properties: &ConnectProperties) -> Result<(), Refused> {
    if properties.authentication_method.is_some() {
        Err(Refused::AuthMethod)
    } else if properties.receive_maximum == Some(0) || properties.max_packet_size == Some(0) {
        Err(Refused::Fault(Fault::Protocol))
    } else {
        Ok(())
    }
}

/// A will that may never be published is better told at CONNECT than found missing on the day it is needed.
fn check_will<I: Intake>(
    shared: &Shared<I>,
    peer: SocketAddr,
    who: &Arc<Identity>,
    will: LastWill,
    properties: Option<LastWillProperties>,
) -> Result<Will, Refused> {
    let topic = topic_rules::topic(&will.topic).map_err(|_| Refused::WillTopic)?;
    shared.policy.may_publish(who, topic).map_err(|_| {
        shared.policy.refused(&who.client, peer, "its will may not be published");
        Refused::Will
    })?;
    Ok(Will::new(who.clone(), will, properties))
}

/// What the client asked for, cut to what it gets, and what it must be told of the difference.
struct Limits {
    keepalive: Option<Duration>,
    keepalive_told: Option<u16>,
    expiry: Duration,
    expiry_told: Option<u32>,
    receive_max: usize,
    packet_bytes_max: usize,
}

impl Limits {
    fn new<I>(
        connect: &Connect,
        properties: Option<&ConnectProperties>,
        version: Version,
        shared: &Shared<I>,
    ) -> Limits {
        let config = &shared.config;
        let keepalive_max = config.keepalive_s_max.max(1);
        let lowered = version == Version::V5 && (connect.keep_alive == 0 || connect.keep_alive > keepalive_max);
        let keepalive_s = if lowered { keepalive_max } else { connect.keep_alive };
        let expiry_asked = match version {
            Version::V311 if connect.clean_session => 0,
            Version::V311 => u32::MAX,
            Version::V5 => properties.and_then(|properties| properties.session_expiry_interval).unwrap_or(0),
        };
        let expiry = Duration::from_secs(expiry_asked.into()).min(config.session_expiry_max);
        let expiry_lowered = expiry < Duration::from_secs(expiry_asked.into());
        Limits {
            // One and a half times what was agreed [MQTT-3.1.2-24].
            keepalive: (keepalive_s > 0).then(|| Duration::from_millis(u64::from(keepalive_s) * 1500)),
            keepalive_told: lowered.then_some(keepalive_max),
            expiry,
            expiry_told: expiry_lowered.then_some(expiry.as_secs() as u32),
            receive_max: properties.and_then(|properties| properties.receive_maximum).unwrap_or(u16::MAX).into(),
            packet_bytes_max: properties
                .and_then(|properties| properties.max_packet_size)
                .map_or(usize::MAX, |max| max as usize),
        }
    }
}

/// A kept session goes only to whom it was kept for, and only with the rights of today. Else it starts clean.
fn may_resume<I: Intake>(claim: &Claim, who: &Identity, shared: &Shared<I>) -> bool {
    let resumable =
        claim.owner == who.name && claim.filters.keys().all(|filter| shared.policy.may_subscribe(who, filter));
    if claim.kept && !resumable {
        tracing::info!(client = %who.client, name = who.name.as_deref(), "session not resumed: owner or rights changed");
    }
    !claim.kept || resumable
}

async fn start_clean<I: Intake>(claim: &mut Claim, shared: &Arc<Shared<I>>) -> Result<(), Refused> {
    claim.kept = false;
    claim.filters.clear();
    if shared.forget(&claim.client).await { Ok(()) } else { Err(Refused::Unavailable) }
}

/// The mailbox of a session that is kept or is to be. Waits until the ledger has it: a session that was promised
/// outlasts the process.
async fn open_mailbox<I: Intake>(
    claim: &mut Claim,
    expiry: Duration,
    shared: &Arc<Shared<I>>,
) -> Result<Option<Arc<Mailbox>>, Refused> {
    if !claim.kept && expiry.is_zero() {
        return Ok(None);
    }
    let expiry_s = seconds(expiry);
    if !claim.kept || claim.expiry_s != expiry_s {
        let change = Change::Open { owner: claim.owner.clone(), expiry_s };
        let opened = shared.settle(vec![Inbound::Session { client: claim.client.clone(), change }]);
        let in_time = tokio::time::timeout(shared.config.takeover_timeout, opened).await;
        if in_time != Ok(true) {
            return Err(Refused::Unavailable);
        }
        (claim.kept, claim.expiry_s) = (true, expiry_s);
    }
    shared.intake.mailboxes().of(&claim.client).map(Some).ok_or(Refused::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_from_the_first_bytes() {
        let peek = |bytes: &[u8]| peek_version(bytes, 1000);
        let connect = |name: &[u8], level: u8| [&[0x10, 20, 0, name.len() as u8], name, &[level, 2]].concat();
        assert_eq!(peek(&connect(b"MQTT", 4)), Ok(Some(Version::V311)));
        assert_eq!(peek(&connect(b"MQTT", 5)), Ok(Some(Version::V5)));
        assert_eq!(peek(&connect(b"MQTT", 6)), Err(Refused::Version));
        assert_eq!(peek(&connect(b"MQIsdp", 3)), Err(Refused::Version));
        for cut in 0..10 {
            assert_eq!(peek(&connect(b"MQTT", 4)[..cut.min(9)]), Ok(None), "{cut}");
        }
        assert_eq!(peek(b"GET / HTTP/1.1\r\n"), Err(Refused::Silent("not MQTT")));
        assert_eq!(peek(&[0x10, 20, 0, 4, b'M', b'Q', b'T', b'T', 4, 3]), Err(Refused::Silent("malformed CONNECT")));
        assert_eq!(peek(&[0x10, 0xff, 0x7f]), Err(Refused::Fault(Fault::TooLarge)));
    }
}
