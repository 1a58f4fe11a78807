"""The GSD of scenes, and rasters on other grids, against GDAL and published figures."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from utils.classes import DEFAULT_TABLE, read_classes
from utils.data.pixel_size import Resample, common_gsd, gsd_of, pixel_metres
from utils.data.image import Image
from utils.data.label import Label
from utils.data.polygons import LabelOptions
from utils.data.rasters import Raster
from utils.data.scenes import Scene, read_scene, write_png

UTM = "EPSG:32640"
HALF_METRE = Affine(.5, 0, 500000, 0, -.5, 5000000)


@pytest.fixture
def table(repository):
    return read_classes(str(repository / DEFAULT_TABLE))


def write(path, samples, **place):
    """A GeoTIFF of samples [bands, height, width]."""
    with rasterio.open(path, "w", driver="GTiff", count=len(samples), height=samples.shape[1],
                       width=samples.shape[2], dtype=samples.dtype, **place) as file:
        file.write(samples)
    return str(path)


def random_samples(height, width, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, (3, height, width)).astype(dtype)


def windows_of(height, width, count=8, side=40):
    random = np.random.default_rng(1)
    for _ in range(count):
        yield (*(int(random.integers(0, length - side)) for length in (height, width)), side, side)
    yield height - side, width - side, side, side


@pytest.mark.parametrize("factor", [.5, .3, .99, 1.7])
@pytest.mark.parametrize("overviews", [(), (2, 4)])
def test_a_resampled_geotiff_is_what_gdal_reads_and_windows_are_parts_of_it(
        tmp_path, factor, overviews):
    path = write(tmp_path / "a.tif", random_samples(301, 403), nodata=0, tiled=True,
                 blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as file:
        file.build_overviews(overviews, Resampling.average)
    size = round(301 * factor), round(403 * factor)
    method = Resampling.average if factor < 1 else Resampling.bilinear
    with rasterio.open(path) as file:
        expected = np.moveaxis(file.read(out_shape=(3, *size), resampling=method), 0, -1)
    with Image(path) as image:
        view = Resample(factor=factor).view(image)
        assert (view.height, view.width) == size and (image.height, image.width) == (301, 403)
        np.testing.assert_array_equal(view.read(0, 0, *size), expected)
        for top, left, height, width in windows_of(*size):
            part = expected[top:top + height, left:left + width].astype(int)
            differences = np.abs(view.read(top, left, height, width) - part)
            # GDAL rounds windows of overviews a little; the samples are noise from 0 to 255.
            assert differences.mean() <= (1 if overviews else 0)
            assert view.has_data(top, left, height, width).shape == (height, width)


def test_nodata_is_no_part_of_an_average_and_has_data_says_where_there_is_nothing_else(tmp_path):
    samples = np.full((3, 4, 6), 200, np.uint8)
    samples[:, :2, :2], samples[:, 0, 4] = 0, 0
    with Image(write(tmp_path / "a.tif", samples, nodata=0)) as image:
        view = Resample(factor=.5).view(image)
        assert view.has_data(0, 0, 2, 3).tolist() == [[False, True, True], [True] * 3]
        assert (view.read(0, 0, 2, 3)[view.has_data(0, 0, 2, 3)] == 200).all()


@pytest.mark.parametrize("factor", [.5, .3, 1.7])
def test_a_png_is_seen_as_the_same_pixels_in_a_geotiff(tmp_path, factor):
    samples = random_samples(121, 90)
    write_png(str(tmp_path / "a.png"), np.moveaxis(samples, 0, -1))
    with (Image(str(tmp_path / "a.png")) as png,
          Image(write(tmp_path / "a.tif", samples)) as tiff):
        views = [Resample(factor=factor).view(image) for image in (png, tiff)]
        one, other = (view.read(0, 0, view.height, view.width).astype(int) for view in views)
    assert one.shape == (round(121 * factor), round(90 * factor), 3)
    assert np.abs(one - other).max() <= 1


def test_polygons_in_pixels_lie_alike_on_a_png_and_a_geotiff(tmp_path, table):
    samples = random_samples(100, 80)
    write_png(str(tmp_path / "a.png"), np.moveaxis(samples, 0, -1))
    write(tmp_path / "a.tif", samples)
    pyogrio.raw.write(str(tmp_path / "a.gpkg"), shapely.to_wkb(np.array([
        shapely.box(40, 60, 70, 90)])), [np.array([2])], ["id"], geometry_type="Polygon")
    for name in ("a.png", "a.tif"):
        ids = read_scene(Scene("a", str(tmp_path / name), str(tmp_path / "a.gpkg")), table,
                         options=LabelOptions("id", "0"), resample=Resample(factor=.5))[1]
        expected = np.zeros((50, 40), np.uint8)
        expected[30:45, 20:35] = 2
        np.testing.assert_array_equal(ids, expected)


def test_16_bits_are_averaged_before_they_are_stretched(tmp_path):
    path = write(tmp_path / "a.tif", random_samples(80, 60, 4000, np.uint16))
    with Image(path, stretch=[(0, 4000)] * 3) as image, rasterio.open(path) as file:
        mean = file.read(out_shape=(3, 40, 30), resampling=Resampling.average)
        np.testing.assert_allclose(Resample(factor=.5).view(image).read(0, 0, 40, 30),
                                   np.moveaxis(mean, 0, -1) * (255 / 4000), atol=.51)


@pytest.mark.parametrize("factor", [.5, .3, .7])
def test_a_label_has_the_class_of_most_of_the_pixel(tmp_path, table, draw_scene, factor):
    label = np.kron(np.random.default_rng(0).integers(0, 5, (20, 26)), np.ones((8, 8))).astype(
        np.uint8)[:160, :203]
    label[:30, :30] = 255
    write_png(str(tmp_path / "ids.png"), label)
    colours = np.vstack([table.colours, np.zeros((251, 3), np.uint8)])
    colours[255] = table.ignore_colour
    write_png(str(tmp_path / "colours.png"), colours[label])
    size = round(160 * factor), round(203 * factor)
    expected = np.empty(size, np.uint8)
    reproject(label, expected, src_crs=UTM, dst_crs=UTM, src_transform=HALF_METRE,
              dst_transform=HALF_METRE * Affine.scale(203 / size[1], 160 / size[0]),
              resampling=Resampling.mode)
    # Overviews that mix classes are not taken.
    with rasterio.open(write(tmp_path / "ids.tif", label[None]), "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    for name in ("ids.png", "ids.tif", "colours.png"):
        with Label(str(tmp_path / name), table) as opened:
            view = opened.resampled(*size)
            whole = view.read(0, 0, *size)
            # Where two classes cover as much, either may be taken: by GDAL's warper another one.
            ties = _ties(label, size)
            np.testing.assert_array_equal(whole[~ties], expected[~ties])
            assert ties.mean() < .3
            for top, left, height, width in windows_of(*size, side=30):
                np.testing.assert_array_equal(view.read(top, left, height, width),
                                              whole[top:top + height, left:left + width])


def _ties(label, size):
    """bool [height, width]: whether another class covers nearly as much as the first, by GDAL."""
    shares = []
    for value in np.unique(label):
        share = np.empty(size, np.float32)
        reproject((label == value).astype(np.float32), share, src_crs=UTM, dst_crs=UTM,
                  src_transform=HALF_METRE, resampling=Resampling.average,
                  dst_transform=HALF_METRE * Affine.scale(*np.divide(label.shape, size)[::-1]))
        shares.append(share)
    first, second = np.sort(shares, axis=0)[-1:-3:-1]
    return first - second < .3


# Metres of a degree of latitude at the equator, at 45 degrees and at a pole, and of longitude at
# 45 degrees (https://en.wikipedia.org/wiki/Latitude#Meridian_distance_on_the_ellipsoid: WGS 84).
@pytest.mark.parametrize("latitude, across, down", [
    (0, 111320, 110574), (45, 78847, 111132), (60, 55800, 111412)])
def test_degrees_are_metres_at_the_scenes_latitude(tmp_path, latitude, across, down):
    step = 1e-5
    place = {"crs": "EPSG:4326",
             "transform": Affine(step, 0, 7, 0, -step, latitude + 20 * step)}
    with Raster(write(tmp_path / "a.tif", random_samples(40, 60), **place)) as raster:
        assert pixel_metres(raster) == pytest.approx((down * step, across * step), rel=2e-5)
        assert gsd_of(raster) == pytest.approx(np.sqrt(down * across) * step, rel=2e-5)


def test_gsd_in_metres_feet_and_mercators_units_from_points_and_from_nothing(tmp_path):
    def gsd(**place):
        with Raster(write(tmp_path / "a.tif", random_samples(40, 60), **place)) as raster:
            return gsd_of(raster)

    assert gsd(crs=UTM, transform=HALF_METRE) == pytest.approx(.5, rel=1e-3)
    turned = HALF_METRE * Affine.rotation(30)
    assert gsd(crs=UTM, transform=turned) == pytest.approx(.5, rel=1e-3)
    feet = Affine(2, 0, 980000, 0, -2, 200000)  # New York, US survey feet
    assert gsd(crs="EPSG:2263", transform=feet) == pytest.approx(2 * 1200 / 3937, rel=1e-3)
    # Web Mercator at 60 degrees north has a scale of 2, to the flattening of the Earth.
    mercator = Affine(1, 0, 780000, 0, -1, 8399738)
    assert gsd(crs="EPSG:3857", transform=mercator) == pytest.approx(.5, rel=4e-3)
    points = [GroundControlPoint(row, column, *(HALF_METRE * (column, row)))
              for row, column in ((0, 0), (0, 60), (40, 0), (40, 60))]
    assert gsd(crs=UTM, gcps=points) == pytest.approx(.5, rel=1e-3)
    assert gsd(crs=UTM) is None and gsd(transform=HALF_METRE) is None and gsd() is None


def test_gsd_brings_a_scene_to_square_pixels_of_that_size_where_it_lay(tmp_path):
    place = {"crs": "EPSG:4326", "transform": Affine(2e-5, 0, 7, 0, -1e-5, 60)}
    with Raster(write(tmp_path / "a.tif", random_samples(200, 300), **place)) as raster:
        view = Resample(gsd=2).view(raster)
        assert (view.height, view.width) == (111, 167)  # of 1.114 by 1.116 m
        assert pixel_metres(view) == pytest.approx((2, 2), rel=.01)
        for corner in ((0, 0), (view.width, view.height)):
            here = view.georeference()["transform"] * corner
            there = place["transform"] * (corner[0] and 300, corner[1] and 200)
            assert here == pytest.approx(there)
    # UTM's scale alone does not make another grid.
    with Raster(write(tmp_path / "b.tif", random_samples(20, 30), crs=UTM,
                      transform=HALF_METRE)) as raster:
        assert Resample(gsd=.5).view(raster) is raster
    points = [GroundControlPoint(row, column, *(HALF_METRE * (column, row)))
              for row, column in ((0, 0), (0, 30), (20, 0), (20, 30))]
    with Raster(write(tmp_path / "c.tif", random_samples(20, 30), crs=UTM, gcps=points)) as raster:
        assert gsd_of(Resample(factor=.5).view(raster)) == pytest.approx(1, rel=1e-3)


def test_sizes_that_cannot_be_met_are_refused_by_file(tmp_path):
    write_png(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    with Image(str(tmp_path / "a.png")) as image:
        with pytest.raises(ValueError, match=r"a.png: it is not georeferenced, so --gsd 0.5 cannot "
                                             "be met; give --resample FACTOR"):
            Resample(gsd=.5).view(image)
    with Image(write(tmp_path / "b.tif", random_samples(20, 30), crs=UTM,
                     transform=HALF_METRE)) as image:
        with pytest.raises(ValueError, match=r"b.tif: --gsd 0.001 resamples it by 500"):
            Resample(gsd=.001).view(image)


def test_image_and_label_are_read_on_one_grid_that_of_the_image(tmp_path, table, draw_scene):
    image, label = draw_scene(90, 120)
    scene = Scene("a", write(tmp_path / "a.tif", np.moveaxis(image, -1, 0), crs=UTM,
                             transform=HALF_METRE), str(tmp_path / "a_class.png"))
    write_png(scene.label_path, label)
    seen, ids = read_scene(scene, table, resample=Resample(gsd=1))
    assert seen.shape == (45, 60, 3) and ids.shape == (45, 60)
    with Label(scene.label_path, table) as opened:
        np.testing.assert_array_equal(ids, opened.resampled(45, 60).read(0, 0, 45, 60))


def test_the_runs_gsd_is_the_median_and_others_are_told(tmp_path, capsys):
    scenes = [Scene(name, write(tmp_path / f"{name}.tif", random_samples(8, 8), crs=UTM,
                                transform=HALF_METRE * Affine.scale(scale)))
              for name, scale in (("a", 1), ("b", 1.2), ("c", 2))]
    write_png(str(tmp_path / "d.png"), np.zeros((8, 8, 3), np.uint8))
    scenes.append(Scene("d", str(tmp_path / "d.png")))
    assert common_gsd(scenes) == pytest.approx(.6, rel=1e-3)
    assert capsys.readouterr().out == ("warning: scene c: 1 m a pixel, the median is 0.6; "
                                       "--gsd 0.6 brings all scenes to it\n")
    assert common_gsd(scenes[:3], Resample(factor=.5)) == pytest.approx(1.2, rel=1e-3)
    assert common_gsd(scenes[:2]) == pytest.approx(.55, rel=1e-3)
    capsys.readouterr()
    assert common_gsd(scenes[3:]) is None and capsys.readouterr().out == ""
