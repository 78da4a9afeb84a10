import io
import multiprocessing
import os
import signal
import tarfile

import numpy as np
import pytest
import torch
from helpers.disks import small_disk
from helpers.waiting import PATIENCE
from PIL import Image

from llava_rad.dinov2.augmentation import MultiCrop
from llava_rad.dinov2.batches import Batch, CropBatches, DrawOrder, ForwardPasses
from llava_rad.dinov2.config import CropsConfig, LossConfig
from llava_rad.dinov2.image_cache import ImageCache, build_cache, pixel_statistics
from llava_rad.dinov2.image_sources import ImageFiles, ImageSource, TarShards, image_folder
from llava_rad.errors import DataError, ImageError, TrainingError


class Phantoms(ImageSource):
    """Image ``i`` has the gray value ``10 * i`` everywhere."""

    def __init__(self, count, broken=()):
        self.count, self.broken, self.reads = count, set(broken), []

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise ImageError("no pixels", where=self.name(index))
        return np.full((40, 50), 10 * index, np.uint8)

    def name(self, index):
        return f"phantom {index}"

    def files(self):
        return []

    def fingerprint(self):
        return f"{self.count}{sorted(self.broken)}"


def _batches(source, batch_size=4, rank=0, processes=1, seed=0, **loss):
    order = DrawOrder([len(source)], [1.0], seed)
    crops = MultiCrop(CropsConfig(local_count=2), 28, 14)
    return CropBatches(
        [source], order, crops, LossConfig(**loss), 14, batch_size, rank, processes, seed
    )


class TestOrder:
    def test_every_pass_takes_each_image_once_in_a_new_order(self):
        order = DrawOrder([10], [1.0], seed=0)
        passes = [[order[10 * number + place] for place in range(10)] for number in range(3)]
        assert all(sorted(one) == list(range(10)) for one in passes)
        assert len({tuple(one) for one in passes}) == 3

    def test_seed_decides(self):
        draws = [[DrawOrder([10], [1.0], seed)[i] for i in range(30)] for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]

    def test_any_draw_without_those_before(self):
        order = DrawOrder([7, 5], [1.0, 1.0], seed=0)
        forwards = [order[draw] for draw in range(60)]
        backwards = [DrawOrder([7, 5], [1.0, 1.0], seed=0)[draw] for draw in reversed(range(60))]
        assert forwards == backwards[::-1]

    def test_weights_are_draws_per_image_and_pass(self):
        order = DrawOrder([10, 20], [2.0, 0.5], seed=0)
        assert len(order) == 30
        counts = np.bincount([order[draw] for draw in range(30)], minlength=30)
        assert (counts[:10] == 2).all()
        assert sorted(counts[10:]) == [0] * 10 + [1] * 10
        second = np.bincount([order[draw] for draw in range(30, 60)], minlength=30)
        assert (second[10:] != counts[10:]).any()


class TestBatches:
    def test_ten_phantoms_give_a_hundred_full_batches(self):
        source = Phantoms(10)
        batches = _batches(source)
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, sampler=ForwardPasses(0, 100)
        )
        sizes = [len(batch.global_crops.pixels) for batch in loader]
        assert sizes == [2 * 4] * 100
        assert (np.bincount(source.reads) == 40).all()

    def test_set_smaller_than_a_batch_is_refused_at_the_start(self):
        with pytest.raises(TrainingError, match="larger than the training set of 3"):
            _batches(Phantoms(3))

    def test_crops_are_ordered_crop_by_crop(self):
        config = dict(flip=0, jitter=0, blur=(0, 0, 0), local_count=2)
        source = Phantoms(10)
        batches = CropBatches(
            [source],
            DrawOrder([10], [1.0], 0),
            MultiCrop(CropsConfig(**config), 28, 14),
            LossConfig(),
            14,
            4,
            0,
            1,
            0,
        )
        batch = batches[0]
        grays = [10 * index for index in source.reads]
        assert batch.global_crops.pixels[:, 0, 0, 0].tolist() == grays * 2
        assert batch.local_crops.pixels[:, 0, 0, 0].tolist() == grays * 2

    def test_two_processes_share_out_what_one_would_do(self):
        whole = _batches(Phantoms(10), batch_size=4)[3]
        parts = [_batches(Phantoms(10), batch_size=2, rank=r, processes=2)[3] for r in (0, 1)]

        def joined(get):
            pieces = [get(part).unflatten(0, (-1, 2)) for part in parts]
            return torch.cat(pieces, dim=1).flatten(0, 1)

        for get in (
            lambda b: b.global_crops.pixels,
            lambda b: b.local_crops.pixels,
            lambda b: b.global_crops.appearance,
            lambda b: b.masks.chosen,
        ):
            assert torch.equal(joined(get), get(whole))

    def test_a_batch_is_a_function_of_its_number(self):
        batches = _batches(Phantoms(10))
        first, _, again = batches[5], batches[0], batches[5]
        assert isinstance(first, Batch)
        assert torch.equal(first.global_crops.pixels, again.global_crops.pixels)
        assert torch.equal(first.masks.chosen, again.masks.chosen)
        assert torch.equal(first.masks.places, first.masks.chosen.flatten().nonzero().squeeze(1))

    def test_without_patch_loss_nothing_is_masked(self):
        assert _batches(Phantoms(10), ibot_weight=0.0)[0].masks.chosen.sum() == 0
        assert _batches(Phantoms(10), mask_ratio=(0.5, 0.5))[0].masks.chosen.sum() > 0

    def test_unreadable_image_is_replaced_by_the_next_with_a_warning(self, caplog):
        source = Phantoms(10, broken=[4])
        batches = _batches(source, batch_size=10)
        assert len(batches[0].masks.chosen) == 20
        assert source.reads.count(5) == 2
        assert "phantom 4: no pixels" in caplog.text

    def test_only_unreadable_images_are_an_error(self):
        with pytest.raises(DataError, match="ten images in a row"):
            _batches(Phantoms(10, broken=range(10)))[0]


def _write_png(path, seed, size=(60, 50)):
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255  # min-max rendering leaves it as it is
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


class TestSources:
    def test_folder_is_searched_with_its_subfolders_in_order(self, tmp_path):
        second = _write_png(tmp_path / "b" / "2.png", 2)
        first = _write_png(tmp_path / "a" / "1.PNG", 1)
        (tmp_path / "notes.txt").write_text("no image")
        source = image_folder(tmp_path)
        assert len(source) == 2
        assert (source.read(0) == first).all()
        assert (source.read(1) == second).all()

    def test_empty_or_absent_folder_is_an_error(self, tmp_path):
        with pytest.raises(DataError, match="no image file is there"):
            image_folder(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            image_folder(tmp_path / "none")

    def test_tar_shards_give_the_files_that_were_packed(self, tmp_path):
        pixels = []
        for shard in range(2):
            with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
                for number in range(3):
                    path = tmp_path / f"{shard}{number}.png"
                    pixels.append(_write_png(path, seed=10 * shard + number))
                    tar.add(path, arcname=path.name)
                    text = tarfile.TarInfo(f"{shard}{number}.json")
                    text.size = 2
                    tar.addfile(text, io.BytesIO(b"{}"))
        source = TarShards(tmp_path / "train-*.tar")
        assert len(source) == 6
        for index in (5, 0, 3):
            assert (source.read(index) == pixels[index]).all()
        assert source.name(5).endswith("train-1.tar:12.png")

    def test_compressed_or_absent_shards_are_an_error(self, tmp_path):
        with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
            tar.add(__file__, arcname="a.png")
        with pytest.raises(DataError, match="not a readable tar shard"):
            TarShards(tmp_path / "x.tar")
        with pytest.raises(DataError, match="no such tar shard"):
            TarShards(tmp_path / "y-*.tar")


class TestCache:
    def test_holds_the_reduced_images_and_leaves_out_unreadable_ones(self, tmp_path):
        paths = [tmp_path / f"{number}.png" for number in range(3)]
        images = [_write_png(path, number, (60, 50)) for number, path in enumerate(paths)]
        paths[1].write_bytes(b"broken")
        cache = build_cache(ImageFiles(paths), tmp_path / "cache", shorter_side=25)
        assert len(cache) == 2
        assert list(cache.skipped) == [str(paths[1])]
        assert cache.read(1).shape == (30, 25)
        expected = np.asarray(Image.fromarray(images[2]).resize((25, 30), Image.Resampling.BICUBIC))
        assert (cache.read(1) == expected).all()
        assert cache.name(1) == str(paths[2])

    def test_is_made_once_and_anew_when_a_file_changes(self, tmp_path):
        path = tmp_path / "0.png"
        _write_png(path, 0)
        source = Phantoms(3)
        build_cache(source, tmp_path / "cache", 20)
        build_cache(source, tmp_path / "cache", 20)
        assert source.reads == [0, 1, 2]
        first = ImageFiles([path]).fingerprint()
        _write_png(path, 1, (70, 50))
        assert ImageFiles([path]).fingerprint() != first
        assert ImageFiles([path], "voi").fingerprint() != ImageFiles([path]).fingerprint()
        second = ImageFiles([path]).fingerprint()
        os.utime(path, ns=(0, 5))  # replaced by one of the same size
        assert ImageFiles([path]).fingerprint() != second

    def test_worker_processes_make_the_same_cache(self, tmp_path):
        paths = [tmp_path / f"{number}.png" for number in range(3)]
        for number, path in enumerate(paths):
            _write_png(path, number)
        alone = build_cache(ImageFiles(paths), tmp_path / "alone", 25)
        shared = build_cache(ImageFiles(paths), tmp_path / "shared", 25, workers=2)
        assert all((alone.read(i) == shared.read(i)).all() for i in range(3))

    def test_two_runs_make_the_same_cache_once(self, tmp_path):
        """Who comes second waits, and opens what the first has made."""
        context = multiprocessing.get_context("fork")
        begun, may_go_on, results = context.Event(), context.Event(), context.Queue()

        def make(first):
            source = Phantoms(3)
            read = source.read

            def slow_read(index):
                begun.set()
                may_go_on.wait(30)
                return read(index)

            source.read = slow_read if first else read
            cache = build_cache(source, tmp_path, 20)
            results.put((first, source.reads, [np.array(cache.read(i)) for i in range(3)]))

        runs = [context.Process(target=make, args=(first,), daemon=True) for first in (True, False)]
        runs[0].start()
        assert begun.wait(PATIENCE)
        runs[1].start()
        runs[1].join(0.7)
        assert runs[1].is_alive()
        may_go_on.set()
        found = {first: rest for first, *rest in (results.get(timeout=PATIENCE) for _ in runs)}
        assert found[True][0] == [0, 1, 2]
        assert found[False][0] == []
        assert all((a == b).all() for a, b in zip(found[True][1], found[False][1], strict=True))
        assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".uint8"]

    def test_what_a_killed_run_left_is_cleared_by_the_next(self, tmp_path):
        context = multiprocessing.get_context("fork")

        def make():
            source = Phantoms(3)

            def die(index):
                os.kill(os.getpid(), signal.SIGKILL)

            source.read = die
            build_cache(source, tmp_path, 20)

        run = context.Process(target=make)
        run.start()
        run.join(30)
        assert [p.suffix for p in tmp_path.glob(".*.partial")] == [".partial"]
        build_cache(Phantoms(3), tmp_path, 20)
        assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".uint8"]

    @pytest.mark.parametrize("damage", ["bit", "zeros", "cut", "gone", "index bit", "no index"])
    def test_damage_is_seen_and_mended_once(self, tmp_path, damage, caplog):
        build_cache(Phantoms(4), tmp_path, 20)
        (pixels,), (index,) = tmp_path.glob("*.uint8"), tmp_path.glob("*.json")
        content = bytearray(pixels.read_bytes())
        if damage == "bit":
            content[-1] ^= 1
        elif damage == "zeros":
            content[500:1500] = bytes(1000)
        elif damage == "cut":
            del content[-1:]
        pixels.write_bytes(content)
        if damage == "gone":
            pixels.unlink()
        elif damage == "index bit":
            text = bytearray(index.read_bytes())
            text[-9] ^= 1
            index.write_bytes(text)
        elif damage == "no index":
            index.unlink()

        def values(source):
            cache = build_cache(source, tmp_path, 20)
            return [np.unique(cache.read(number)).tolist() for number in range(4)]

        first, second = Phantoms(4), Phantoms(4)
        assert values(first) == [[0], [10], [20], [30]]
        assert first.reads
        told = "made anew" in caplog.text or "decoded again" in caplog.text
        assert told == (damage not in ("gone", "no index"))
        assert values(second) == [[0], [10], [20], [30]]
        assert second.reads == []
        assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".uint8"]

    def test_damage_that_cannot_be_mended_is_one_message(self, tmp_path):
        build_cache(Phantoms(2), tmp_path, 20)
        (pixels,) = tmp_path.glob("*.uint8")
        pixels.write_bytes(bytes(len(pixels.read_bytes())))
        source = Phantoms(2)
        source.fingerprint = Phantoms(2).fingerprint
        source.broken = {1}
        with pytest.raises(DataError, match=r"phantom 1: the cached image is damaged"):
            build_cache(source, tmp_path, 20).read(1)

    def test_a_full_disk_is_one_message(self, tmp_path):
        with (
            small_disk(tmp_path / "disk", 8192) as disk,
            pytest.raises(DataError, match=r"the image cache cannot be written \(No space left"),
        ):
            build_cache(Phantoms(40), disk, 20)

    def test_a_folder_of_the_users_own_is_private(self, tmp_path):
        build_cache(Phantoms(2), tmp_path / "own", 20, private=True)
        build_cache(Phantoms(2), tmp_path / "placed", 20)
        assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "placed").stat().st_mode & 0o077

    def test_interrupted_making_leaves_no_cache(self, tmp_path):
        source = Phantoms(3)

        def stop(index):
            raise KeyboardInterrupt

        source.read = stop
        with pytest.raises(KeyboardInterrupt):
            build_cache(source, tmp_path, 20)
        assert not list(tmp_path.glob("*.json"))
        assert isinstance(build_cache(Phantoms(3), tmp_path, 20), ImageCache)

    def test_all_unreadable_is_an_error_with_a_reason(self, tmp_path):
        with pytest.raises(DataError, match=r"none of 2 images can be read.*no pixels"):
            build_cache(Phantoms(2, broken=[0, 1]), tmp_path, 20)


def test_statistics_equal_those_of_all_pixels():
    mean, std = pixel_statistics(Phantoms(5))
    grays = np.array([0, 10, 20, 30, 40]) / 255
    assert (mean, std) == pytest.approx((grays.mean(), grays.std()))
