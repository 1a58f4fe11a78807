"""The names of a class map's classes, as GDAL keeps them beside a GeoTIFF: NAME.tif.aux.xml.

A GeoTIFF has no place for them and rasterio no call. GDAL's sidecar (the 'persistent auxiliary
metadata' of its documentation) has two: category names, which QGIS puts into the legend, and a
raster attribute table, which ArcGIS and newer QGIS read.
"""

from xml.etree import ElementTree as xml

# (name, GDALRATFieldType, GDALRATFieldUsage): 0 is a whole number, 2 a text.
COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))


def category_names(table):
    """The sidecar of a class map with the names and colours of a ClassTable, as bytes."""
    dataset = xml.Element("PAMDataset")
    band = xml.SubElement(dataset, "PAMRasterBand", band="1")
    names = xml.SubElement(band, "CategoryNames")
    attributes = xml.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for number, (name, kind, usage) in enumerate(COLUMNS):
        field = xml.SubElement(attributes, "FieldDefn", index=str(number))
        for key, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            xml.SubElement(field, key).text = str(value)
    for number, (name, colour) in enumerate(zip(table.names, table.colours.tolist())):
        xml.SubElement(names, "Category").text = name
        row = xml.SubElement(attributes, "Row", index=str(number))
        for value in (number, name, *colour):
            xml.SubElement(row, "F").text = str(value)
    return xml.tostring(dataset, encoding="utf-8", xml_declaration=False) + b"\n"
