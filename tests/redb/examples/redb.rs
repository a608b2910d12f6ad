//! redb in a compressed, checksummed volume: `cargo run --example redb`.

use std::error::Error;

use cowback::{Options, Volume};
use cowback_redb::CowbackBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

const WORDS: TableDefinition<'_, &str, u64> = TableDefinition::new("words");

fn main() -> Result<(), Box<dyn Error>> {
    let image = std::env::temp_dir().join(format!("cowback-redb-{}.img", std::process::id()));
    let volume = Volume::create(&image, &Options::default())?;

    let file = volume.create_file("words.redb")?;
    let database = Database::builder().create_with_backend(CowbackBackend(file))?;
    let transaction = database.begin_write()?;
    {
        let mut words = transaction.open_table(WORDS)?;
        let text = include_str!("redb.rs");
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let count = words.get(word)?.map_or(0, |count| count.value());
            words.insert(word, count + 1)?;
        }
    }
    transaction.commit()?; // redb syncs its file: from here on the words survive a power cut
    drop(database);
    volume.close()?;

    let volume = Volume::open(&image, &Options::default())?;
    let file = volume.open_file("words.redb")?;
    let (len, stored) =
        (file.len(), file.extents()?.iter().map(|extent| extent.stored).sum::<u64>());
    let database = Database::builder().create_with_backend(CowbackBackend(file))?;
    let words = database.begin_read()?.open_table(WORDS)?;
    let count = words.get("volume")?.map_or(0, |count| count.value());
    println!("{} words, `volume` {count} times; {len} bytes, {stored} on disk", words.len()?);

    drop((words, database));
    volume.close()?;
    std::fs::remove_file(&image)?;
    Ok(())
}
