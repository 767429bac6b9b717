use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn personal() -> (tempfile::TempDir, Personal) {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::load_or_draw(dir.path()).unwrap();
    (dir, Personal::new(FIELDS, "29,998", keys))
}

fn guard(personal: &Personal, payload: impl Into<Bytes>) -> (String, Vec<String>) {
    let guarded = personal.guard(Some(Kind::Sale), Form::Json, &payload.into());
    let people = guarded.people.iter().map(|person| person.field.clone()).collect();
    (String::from_utf8(guarded.payload.to_vec()).unwrap(), people)
}

#[test]
fn ids_are_replaced_on_every_level_and_nothing_else_is() {
    let (_dir, personal) = personal();
    let sale = json!({
        "id": "r-1", "household": 1364, "Cashier": "anna 7", "lines": [{ "gtin": "4006381333931", "qty": 1364 }],
        "extra": { "customer_id": ["c-1", { "email": "a@b.example" }], "paid": true, "loyalty": null },
    });
    let (payload, people) = guard(&personal, sale.to_string());
    for raw in ["anna", "c-1", "a@b", "\"household\":1364"] {
        assert!(!payload.contains(raw), "{raw} in {payload}");
    }
    let kept: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((&kept["lines"], &kept["id"], &kept["extra"]["paid"]), (&sale["lines"], &sale["id"], &json!(true)));
    assert_eq!(people, ["cashier", "customer_id", "customer_id", "household"]);
    assert_eq!(guard(&personal, payload.clone()).0, payload, "guarding twice is guarding once");
}

#[test]
fn what_is_about_nobody_is_left_to_the_byte() {
    let (_dir, personal) = personal();
    for payload in ["4006381333931", "{ \"gtin\": 4006381333931 }", "not { json", "", "{\"name\":\"caf\\u00e9\"}"] {
        assert_eq!(guard(&personal, payload), (payload.to_owned(), vec![]));
    }
    let nobody = Personal::default();
    assert_eq!(guard(&nobody, "{\"household\":1}").0, "{\"household\":1}");
}

#[test]
fn a_name_in_disguise_is_a_name() {
    let (_dir, personal) = personal();
    for payload in ["{\"h\\u006fusehold\":\"1364\"}", "{\"HOUSEHOLD\":\"1364\"}", "{\"a\":[[{\"household\":[1364]}]]}"]
    {
        assert!(!guard(&personal, payload).0.contains("1364"), "{payload}");
    }
}

#[test]
fn what_cannot_be_read_is_searched_as_text() {
    let (_dir, personal) = personal();
    for payload in [
        "{\"household\":\"1364\"",
        "{household:1364,",
        "household=1364;x",
        "{\"householdId\" : 'x1364' ",
        "\u{1}household\u{12}\u{4}1364",
        "{\"household\":\"1364\",}",
    ] {
        let (guarded, people) = guard(&personal, payload);
        assert!(!guarded.contains("1364") && people == ["household"], "{payload} became {guarded}");
    }
    assert_eq!(guard(&personal, "{\"household\"").0, "{\"household\"");
}

#[test]
fn a_loyalty_card_is_nobody_s_barcode() {
    let (_dir, personal) = personal();
    let of = |payload: &str| {
        let guarded = personal.guard(Some(Kind::Sale), Form::Json, &payload.to_owned().into());
        let text = String::from_utf8(guarded.payload.to_vec()).unwrap();
        assert!(!text.contains("1364"), "{payload} became {text}");
        guarded.people
    };
    let person = of("2900001364003");
    for payload in [
        "]E02900001364003\r\n",
        "02900001364003",
        "]C1010290000136400310LOT7",
        "0102900001364003",
        "\"2900001364003\"",
        "\u{0}2900001364003\u{0}",
        "{\"gtin\":\"2900001364003\"}",
        "{\"gtin\":2900001364003}",
        "{\"gtin\":\"\\u0032900001364003\"}",
        "{\"lines\":[{\"gtin\":\"02900001364003\",\"qty\":1}]}",
        "{\"lines\":[{\"gtin\":\"2900001364003\",\"qty\"",
        "{\"gtin\":[2900001364003]}",
        "{\"text\":\"{\\\"gtin\\\":2900001364003}\"}",
        "scan 2900001364003!",
    ] {
        assert_eq!(of(payload), person, "{payload}: the same card is the same person");
    }
    for nobody in ["4006381329003", "{\"at_ms\":2900001364003}", "{\"reference\":\"2900001364003\"}", "29: 2911"] {
        assert_eq!(guard(&personal, nobody), (nobody.to_owned(), vec![]));
    }
}

#[test]
fn json_within_json_hides_nobody() {
    let (_dir, personal) = personal();
    for payload in ["\"{\\\"household\\\":1364}\"", "{\"text\":\"{\\\"household\\\":[1364]}\"}"] {
        let (guarded, people) = guard(&personal, payload);
        assert!(!guarded.contains("1364") && people == ["household"], "{payload} became {guarded}");
    }
    assert_eq!(guard(&personal, "{\"text\":\"the household's wine\"}").1, Vec::<String>::new());
}

#[test]
fn protobuf_is_guarded_where_it_has_room_for_people() {
    let (_dir, personal) = personal();
    let people = [("household".to_owned(), "1364".to_owned())].into();
    let sale = pos::Sale { id: "a".into(), people, ..Default::default() };
    let guarded = personal.guard(Some(Kind::Sale), Form::Protobuf, &sale.encode_to_vec().into());
    let read = pos::Sale::decode(guarded.payload).unwrap();
    assert!(read.id == "a" && read.people["household"].starts_with('~') && guarded.people.len() == 1);
    let value = pos::Value { of: Some(value::Of::Whole(1364)) };
    let remark = pos::Remark { fields: [("customer".to_owned(), value)].into(), ..Default::default() };
    let guarded = personal.guard(Some(Kind::Activity), Form::Protobuf, &remark.encode_to_vec().into());
    let read = pos::Remark::decode(guarded.payload).unwrap();
    assert!(matches!(&read.fields["customer"].of, Some(value::Of::Text(of)) if of.starts_with('~')));
}

#[test]
fn protobuf_has_cards_among_its_lines_and_names_that_nobody_configured() {
    let (_dir, personal) = personal();
    let line = |gtin: &str| pos::Line { gtin: gtin.into(), qty: Some(1), cents: None };
    let sale = pos::Sale { lines: vec![line("4006381333931"), line("02900001364003")], ..Default::default() };
    let guest = [("guest".to_owned(), "1364".to_owned())].into();
    let movement = pos::Move { lines: vec![line("]E02900001364003")], people: guest, ..Default::default() };
    let count = pos::Count { gtin: "2900001364003".into(), ..Default::default() };
    let scan = pos::Scan { gtin: "2900001364003".into(), ..Default::default() };
    let (sale, movement) = (sale.encode_to_vec(), movement.encode_to_vec());
    let torn = movement[..movement.len() - 1].to_vec();
    for (kind, payload, people) in [
        (Kind::Sale, sale, 1),
        (Kind::Move, movement, 2),
        (Kind::Move, torn, 1),
        (Kind::Count, count.encode_to_vec(), 1),
        (Kind::Scan, scan.encode_to_vec(), 1),
        (Kind::Sale, b"\xff\xff household 1364".to_vec(), 1),
    ] {
        let guarded = personal.guard(Some(kind), Form::Protobuf, &payload.into());
        let card = guarded.payload.windows(9).any(|part| part == b"290000136");
        assert!(!card && guarded.people.len() == people, "{kind:?}: {guarded:?}");
    }
    let nobody = pos::Sale { id: "household".into(), lines: vec![line("4006381333931")], ..Default::default() };
    let bytes = Bytes::from(nobody.encode_to_vec());
    assert_eq!(personal.guard(Some(Kind::Sale), Form::Protobuf, &bytes).payload, bytes);
}

#[test]
fn a_person_is_the_same_under_the_same_key_and_another_under_another() {
    let (dir, personal) = personal();
    let of =
        |personal: &Personal| personal.guard(None, Form::Json, &"{\"customer\":\"7\"}".into()).people[0].of.clone();
    let other_store = tempfile::tempdir().unwrap();
    let mut keys = Keys::load_or_draw(other_store.path()).unwrap();
    assert_ne!(of(&Personal::new(FIELDS, "", keys.clone())), of(&personal));
    keys.import(other_store.path(), &Keys::load(dir.path()).unwrap().newest().unwrap()).unwrap();
    assert_eq!(of(&Personal::new(FIELDS, "", keys)), of(&personal));
    let cashier = personal.guard(None, Form::Json, &"{\"cashier\":\"7\"}".into()).people[0].of.clone();
    assert_ne!(cashier, of(&personal), "cashier 7 is not customer 7");

    let mut keys = Keys::load(dir.path()).unwrap();
    keys.rotate(dir.path()).unwrap();
    let rotated = Personal::new(FIELDS, "", Keys::load(dir.path()).unwrap());
    assert_ne!(of(&rotated), of(&personal));
    assert_eq!(Keys::load(dir.path()).unwrap().ids().len(), 2);
    let mode = std::fs::metadata(dir.path().join("privacy.keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_key_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    Keys::load_or_draw(dir.path()).unwrap().rotate(dir.path()).unwrap();
    let path = dir.path().join("privacy.keys");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 3]).unwrap();
    assert!(matches!(Keys::load(dir.path()), Err(KeyError::Content { line: 2, .. })));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(payload: Vec<u8>, form: bool) {
        let (_dir, personal) = personal();
        let mut with_name = b"\xffhousehold".to_vec();
        with_name.extend_from_slice(&payload);
        let form = if form { Form::Json } else { Form::Protobuf };
        for kind in [Kind::Activity, Kind::Sale, Kind::Item] {
            let guarded = personal.guard(Some(kind), form, &with_name.clone().into());
            let again = personal.guard(Some(kind), form, &guarded.payload);
            proptest::prop_assert_eq!(again.payload, guarded.payload);
        }
    }
}
