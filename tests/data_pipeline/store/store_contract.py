"""What every object store promises. Each kind of store runs these tests by inheriting them."""

import itertools
import threading
import time

import pytest

from data_pipeline.store.protocol import InvalidKey, KeyExists, KeyMissing, ObjectStore, with_prefix

ESCAPING_KEYS = ["", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "a/./b", "a\nb", "a\x00b", "a\x7fb", ".incoming/a", "é" * 600]


class StoreContract:
    """Inherit, give a fixture `store`, an empty one for each test, and say how a write to it is left incomplete."""

    num_listed = 25
    """Enough for more than one page of a listing."""

    knows_when_writes_began = True

    def test_what_was_put_is_read_back(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 300
        store.put("runs/first/state.json", data)
        assert store.get("runs/first/state.json") == data

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.get_range("empty", 0, 10) == b""
        assert [info.size_bytes for info in store.list("empty")] == [0]

    def test_a_second_put_replaces_the_first(self, store: ObjectStore) -> None:
        store.put("key", b"a long first version")
        store.put("key", b"second")
        assert store.get("key") == b"second"

    def test_create_refuses_what_exists_and_leaves_it_alone(self, store: ObjectStore) -> None:
        store.create("journal/1", b"mine")
        with pytest.raises(KeyExists, match=r"journal/1.*exists already"):
            store.create("journal/1", b"theirs")
        with pytest.raises(KeyExists):
            store.create("journal/1", b"mine")  # the same words don't make it the same write
        assert store.get("journal/1") == b"mine"

    def test_of_many_concurrent_creates_exactly_one_wins_and_its_bytes_stay(self, store: ObjectStore) -> None:
        num_keys, num_writers = 10, 8
        winners: list[list[int]] = [[] for _ in range(num_keys)]
        barrier = threading.Barrier(num_writers)

        def write(writer: int) -> None:
            barrier.wait()
            for key in range(num_keys):
                try:
                    store.create(f"race/{key}", f"writer {writer}".encode() * 50)
                except KeyExists:
                    continue
                winners[key].append(writer)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(num_writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [len(won) for won in winners] == [1] * num_keys
        assert [store.get(f"race/{key}") for key in range(num_keys)] == [f"writer {won[0]}".encode() * 50 for won in winners]

    def test_a_missing_key_is_named(self, store: ObjectStore) -> None:
        for read in (lambda: store.get("no/such"), lambda: store.get_range("no/such", 0, 4)):
            with pytest.raises(KeyMissing, match=r"no/such: no such object"):
                read()

    @pytest.mark.parametrize(
        ("start", "length", "expected"), [(0, 4, b"0123"), (3, 4, b"3456"), (8, 5, b"89"), (10, 3, b""), (50, 3, b""), (2, 0, b"")]
    )
    def test_a_range_is_cut_at_the_end_of_the_object(self, store: ObjectStore, start: int, length: int, expected: bytes) -> None:
        store.put("digits", b"0123456789")
        assert store.get_range("digits", start, length) == expected

    def test_a_negative_range_is_refused(self, store: ObjectStore) -> None:
        store.put("digits", b"0123456789")
        for start, length in ((-1, 2), (0, -2)):
            with pytest.raises(ValueError, match="negative"):
                store.get_range("digits", start, length)

    def test_listing_is_sorted_complete_and_can_start_after_a_key(self, store: ObjectStore) -> None:
        keys = [f"journal/{number:08d}" for number in range(self.num_listed)]
        self.put_all(store, [*keys, "other/1", "journal-old/1"])
        assert [info.key for info in store.list("journal/")] == keys
        assert [info.key for info in store.list("journal/", after=keys[-3])] == keys[-2:]
        assert [info.key for info in store.list("journal/", after="journal/00000003x")] == keys[4:]
        assert [info.key for info in store.list("journal/0000000")] == keys[:10]
        assert store.list("nothing/") == []

    def test_listing_goes_by_key_and_not_by_directory(self, store: ObjectStore) -> None:
        self.put_all(store, ["a/b/c", "a-b", "a/b.txt", "b"])
        assert [info.key for info in store.list("")] == ["a-b", "a/b.txt", "a/b/c", "b"]
        assert [info.key for info in store.list("a")] == ["a-b", "a/b.txt", "a/b/c"]

    def test_a_listing_tells_size_and_time(self, store: ObjectStore) -> None:
        store.put("file", b"12345")
        (info,) = store.list("file")
        assert info.size_bytes == 5
        assert abs(info.modified_at_s - time.time()) < 3600

    def test_delete_removes_and_may_be_repeated(self, store: ObjectStore) -> None:
        store.put("key", b"1")
        store.delete("key")
        store.delete("key")
        with pytest.raises(KeyMissing):
            store.get("key")
        store.create("key", b"2")
        assert store.get("key") == b"2"

    def test_no_key_leaves_the_root(self, store: ObjectStore) -> None:
        scoped = with_prefix(store, "runs/first")
        for place, key in itertools.product((store, scoped), ESCAPING_KEYS):
            for use in (
                place.get,
                lambda key, place=place: place.get_range(key, 0, 1),
                place.delete,
                lambda key, place=place: place.put(key, b""),
                lambda key, place=place: place.create(key, b""),
            ):
                with pytest.raises(InvalidKey, match="object key"):
                    use(key)
        for key in ESCAPING_KEYS:
            with pytest.raises(InvalidKey):
                with_prefix(store, key + "/" if key else key)

    def test_a_sub_store_sees_only_its_own(self, store: ObjectStore) -> None:
        self.put_all(store, ["runs/first/a", "runs/first/b", "runs/first-copy/a", "runs/second/a"])
        first = with_prefix(store, "runs/first")
        first.create("c", b"c")
        assert [info.key for info in first.list("")] == ["a", "b", "c"]
        assert [info.key for info in first.list("", after="a")] == ["b", "c"]
        assert store.get("runs/first/c") == first.get("c") == b"c"
        assert first.get_range("c", 0, 1) == b"c"
        assert first.url("c") == store.url("runs/first/c")
        first.delete("c")
        assert store.list("runs/first/c") == []
        for place in (first, store):
            with pytest.raises(InvalidKey):
                place.list("../second/")

    def test_what_killed_writers_left_is_removed_where_it_is_abandoned(self, store: ObjectStore) -> None:
        first = with_prefix(store, "runs/first")
        assert first.abort_writes("", lambda key: True) == 0
        first.put("old/whole", b"1")
        for key in ("runs/first/old/1", "runs/first/old/2", "runs/first/new/1", "runs/second/old/1"):
            self.leave_incomplete(store, key)

        assert first.abort_writes("", lambda key: key.startswith("old/")) == 2
        assert first.abort_writes("", lambda key: key.startswith("old/")) == 0
        assert first.abort_writes("n", lambda key: True) == 1
        assert store.abort_writes("runs/", lambda key: key == "runs/second/old/1") == 1
        assert [info.key for info in store.list("")] == ["runs/first/old/whole"]
        for place in (first, store):
            with pytest.raises(InvalidKey):
                place.abort_writes("../second/", lambda key: True)

    def test_what_was_begun_lately_is_left_to_its_writer(self, store: ObjectStore) -> None:
        self.leave_incomplete(store, "runs/first/a")
        now_s = time.time()
        if self.knows_when_writes_began:
            assert with_prefix(store, "runs").abort_writes("", lambda key: True, begun_before_s=now_s - 3600.0) == 0
        assert with_prefix(store, "runs").abort_writes("", lambda key: True, begun_before_s=now_s + 3600.0) == 1

    def leave_incomplete(self, store: ObjectStore, key: str) -> None:
        """As a writer does that is killed before the object is whole."""
        raise NotImplementedError

    def put_all(self, store: ObjectStore, keys: list[str]) -> None:
        for key in keys:
            store.put(key, key.encode())
