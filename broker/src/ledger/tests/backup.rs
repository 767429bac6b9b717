//! Copies of a log: whole at every commit, whatever is appended meanwhile, and never taken for whole if they are not.

use super::*;

/// Copies the inventory's part of each file.
fn copy(inventory: &Inventory, from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for part in &inventory.segments {
        let bytes = fs::read(from.join(&part.name)).unwrap();
        fs::write(to.join(&part.name), &bytes[..part.bytes as usize]).unwrap();
    }
}

#[tokio::test]
async fn a_copy_up_to_a_commit_is_the_ledger_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (home, new) = (dir.path().join("home"), dir.path().join("new"));
    let ledger = Running::open(keeping(&home, 1 << 21)).unwrap();
    for part in noise(1_500).chunks(20) {
        ledger.publish("activity", part).await;
    }
    let (state, inventory) = (ledger.state().await, ledger.reader.inventory());
    assert!(inventory.segments.len() > 2, "{inventory:?}");
    ledger.publish("later", &noise(1_500)).await;
    assert_ne!(ledger.reader.inventory(), inventory);

    let restoring = Restoring::begin(&new, &inventory.replica).unwrap();
    assert!(Running::open(options(&new)).is_err(), "nobody may open what is not finished");
    copy(&inventory, &log_dir(&home), &restoring.journal());
    restoring.finish(&inventory).unwrap();
    let restored = Running::open(keeping(&new, 1 << 21)).unwrap();
    assert_eq!(restored.state().await, state);
    assert_eq!(restored.reader.inventory(), inventory);
    let recovery = restored.reader.recovery();
    assert!(recovery.lost.is_empty() && !recovery.state_incomplete, "{recovery:?}");
    restored.stop().await;

    // A stopped one is read from its files, and nothing starts meanwhile.
    ledger.stop().await;
    let (stopped, lock) = inventory_of_stopped(&home).unwrap();
    assert_eq!(stopped.seq, 3_000);
    assert!(lock.is_some() && inventory_of_stopped(&home).is_err());
}

#[tokio::test]
async fn a_copy_that_is_not_whole_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let ledger = Running::open(keeping(&home, 1 << 21)).unwrap();
    for part in noise(1_500).chunks(20) {
        ledger.publish("activity", part).await;
    }
    let inventory = ledger.reader.inventory();
    ledger.stop().await;
    type Spoil = fn(&[PathBuf]);
    let cases: [(&str, Spoil); 6] = [
        ("the first is gone", |files| fs::remove_file(&files[0]).unwrap()),
        ("one is gone", |files| fs::remove_file(&files[1]).unwrap()),
        ("the last is gone", |files| fs::remove_file(files.last().unwrap()).unwrap()),
        ("the end is gone", |files| {
            let last = fs::read(files.last().unwrap()).unwrap();
            fs::write(files.last().unwrap(), &last[..last.len() - 1]).unwrap();
        }),
        ("a byte is another", |files| {
            let mut bytes = fs::read(&files[1]).unwrap();
            bytes[9_999] ^= 1;
            fs::write(&files[1], bytes).unwrap();
        }),
        ("all of it is there twice", |files| {
            fs::copy(&files[0], files[0].with_file_name("00000000000000999999.log")).map(drop).unwrap();
        }),
    ];
    for (n, (what, spoil)) in cases.iter().enumerate() {
        let to = dir.path().join(format!("copy-{n}"));
        copy(&inventory, &log_dir(&home), &to);
        assert!(check_copy(&to, &inventory, &mut |_| {}).is_ok());
        let files: Vec<PathBuf> = inventory.segments.iter().map(|part| to.join(&part.name)).collect();
        spoil(&files);
        assert!(check_copy(&to, &inventory, &mut |_| {}).is_err(), "{what}");
    }
}
