#include "deploy_config.h"

#include <set>

#include "error.h"
#include "files.h"
#include "yaml_section.h"

namespace segment {

namespace fs = std::filesystem;

namespace {

const std::set<int> kFormats = {1, 2, 3, 4, 5, 6};
const std::map<std::string, std::size_t> kNumFiles = {{"paddle", 2}, {"onnx", 1}, {"openvino", 2}};

ModelFile read_file(const Section& section) {
  return {section.get<std::string>("name"), section.get<std::string>("sha256")};
}

std::optional<Fixture> read_fixture(const Section& root) {
  if (!root.has("fixture")) return std::nullopt;
  const Section section = root.section("fixture");
  return Fixture{read_file(section.section("image")), read_file(section.section("labels")),
                 section.get("min_agreement", 0.999)};
}

std::map<std::string, std::vector<ModelFile>> read_artefacts(const Section& root, int format) {
  if (format == 1)  // it knew Paddle's two files alone
    return {{"paddle", {read_file(root.section("program")), read_file(root.section("weights"))}}};
  std::map<std::string, std::vector<ModelFile>> artefacts;
  const Section section = root.section("artefacts");
  for (const auto& [name, num_files] : kNumFiles) {
    if (!section.has(name)) continue;
    for (const Section& file : section.section(name).sections("files"))
      artefacts[name].push_back(read_file(file));
    if (artefacts[name].size() != num_files)
      fail(section.name_of(name), ": found ", artefacts[name].size(), " files, expected ",
           num_files, ". Export the model again.");
  }
  return artefacts;
}

InputSpec read_input(const Section& section) {
  const auto shape = section.get<std::vector<int>>("shape");
  if (shape.size() != 4 || shape[1] < 1)
    fail(section.name_of("shape"), ": expected N, C, H, W; -1 for any, but C.");
  for (int side : shape)
    if (side < 1 && side != -1)
      fail(section.name_of("shape"), ": found ", side, ", expected -1 or more than 0.");
  if (const auto dtype = section.get<std::string>("dtype", "float32"); dtype != "float32")
    fail(section.name_of("dtype"), ": found '", dtype, "', expected float32.");
  if (const auto order = section.get<std::string>("channel_order", "RGB"); order != "RGB")
    fail(section.name_of("channel_order"), ": found '", order, "', expected RGB.");
  return {{shape[0], shape[1], shape[2], shape[3]}, section.get("min_side_px", 1)};
}

OutputSpec read_output(const Section& section) {
  OutputSpec output{section.get<std::string>("op"), section.get<int>("num_classes"),
                    section.get("pad_multiple", 1)};
  if (output.op != "none")
    fail(section.name_of("op"), ": exported with --output_op ", output.op,
         ", but this program needs logits. Export the model again with --output_op none.");
  if (output.num_classes < 1 || output.num_classes > 65536 || output.pad_multiple < 1)
    fail(section.name(), ": num_classes has to be in 1..65536 and pad_multiple 1 or more.");
  return output;
}

Normalization read_normalization(const Section& section, int num_channels) {
  section.expect_only({"type", "mean", "std"});
  const std::vector<double> mean = section.numbers("mean"), std = section.numbers("std");
  const auto channels = static_cast<std::size_t>(num_channels);
  for (const auto* values : {&mean, &std})
    if (values->size() != 1 && values->size() != channels)
      fail(section.name(), ": found ", values->size(), " values, but the image has ", channels,
           " channels; expected one value, or one for each channel.");
  Normalization result;
  for (std::size_t i = 0; i < channels; ++i) {
    const auto channel_mean = static_cast<float>(mean[mean.size() == 1 ? 0 : i]);
    const auto channel_std = static_cast<float>(std[std.size() == 1 ? 0 : i]);
    if (channel_std <= 0) fail(section.name_of("std"), ": every value must be greater than 0.");
    result.offset.push_back(255.0f * channel_mean);
    result.scale.push_back(1.0f / (255.0f * channel_std));
  }
  return result;
}

/// Reads size rules in order, then at most one Normalize.
void read_preprocess(const Section& section, DeployConfig& config) {
  if (section.has("value_range"))
    fail(section.name_of("value_range"),
         ": this program maps no stored values to 0..255. Use deploy/python/infer.py.");
  section.expect_only({"transforms", "value_range"});
  const int num_channels = config.input.shape[1];
  bool is_normalized = false;
  config.normalization = {std::vector<float>(num_channels, 0), std::vector<float>(num_channels, 1)};
  for (const Section& transform : section.sections("transforms")) {
    if (is_normalized) fail(transform.name(), ": comes after Normalize, which has to be last.");
    is_normalized = transform.get<std::string>("type") == "Normalize";
    if (is_normalized)
      config.normalization = read_normalization(transform, num_channels);
    else
      config.size_rules.push_back(make_size_rule(transform));
  }
}

/// Returns a size written as [height, width].
std::optional<cv::Size> read_size_hw(const Section& section, const std::string& key) {
  const auto sides = section.find<std::vector<int>>(key);
  if (!sides) return std::nullopt;
  if (sides->size() != 2) fail(section.name_of(key), ": expected [height, width].");
  return cv::Size((*sides)[1], (*sides)[0]);
}

Settings read_settings(const Section& section, int num_classes) {
  section.expect_only({"is_slide", "crop_size_hw", "stride_hw", "scales", "flip_horizontal",
                       "flip_vertical", "average", "scale_mode", "is_one_step", "window_batch",
                       "align_corners", "temperatures"});
  const std::vector<double> whole = {1.0};
  if (section.get("scales", whole) != whole || section.get("flip_horizontal", false) ||
      section.get("flip_vertical", false))
    fail(section.name(),
         ": scales and flips are not supported by this program; export with "
         "aug_eval: False, or use deploy/python/infer.py.");
  Settings settings;
  settings.is_slide = section.get("is_slide", false);
  settings.crop_size = read_size_hw(section, "crop_size_hw");
  settings.stride = read_size_hw(section, "stride_hw");
  settings.is_one_step = section.get("is_one_step", false);
  settings.align_corners = section.get("align_corners", false);
  settings.window_batch = section.get("window_batch", settings.window_batch);
  settings.temperatures = section.get("temperatures", settings.temperatures);
  const std::size_t count = settings.temperatures.size();
  if (count > 1 && count != static_cast<std::size_t>(num_classes))
    fail(section.name_of("temperatures"), ": found ", count,
         ", expected 1, or one for each of the ", num_classes, " classes.");
  for (const float value : settings.temperatures)
    if (!(value > 0))
      fail(section.name_of("temperatures"), ": found ", value, ", expected numbers above 0.");
  return settings;
}

std::vector<cv::Vec3b> read_palette(const Section& root) {
  std::vector<cv::Vec3b> palette;
  for (const auto& color : root.get<std::vector<std::vector<int>>>("palette")) {
    if (color.size() != 3)
      fail(root.name_of("palette"), ": expected three numbers for each class.");
    cv::Vec3b rgb;
    for (int channel = 0; channel < 3; ++channel) {
      if (color[channel] < 0 || color[channel] > 255)
        fail(root.name_of("palette"), ": found ", color[channel], ", expected numbers in 0..255.");
      rgb[channel] = static_cast<uchar>(color[channel]);
    }
    palette.push_back(rgb);
  }
  return palette;
}

YAML::Node parse(const fs::path& path) {
  const Bytes content = read_bytes(path);
  try {
    return YAML::Load(std::string(content.begin(), content.end()));
  } catch (const YAML::Exception& error) {
    fail(path.string(), ": not readable as YAML (", error.what(), ").");
  }
}

}  // namespace

void Settings::check() {
  if (window_batch < 1) fail("window_batch: found ", window_batch, ", expected 1 or more.");
  if (!is_slide) return;
  if (!crop_size) fail("is_slide: a sliding window needs --crop_size.");
  if (is_one_step)
    fail(
        "is_one_step: a window cannot be resized in one step. Switch off is_slide or is_one_step.");
  if (!stride) stride = crop_size;
  if (std::min({crop_size->width, crop_size->height, stride->width, stride->height}) < 1)
    fail("crop_size and stride: expected whole numbers of pixels above 0.");
  if (stride->width > crop_size->width || stride->height > crop_size->height)
    fail("stride ", *stride, " is larger than crop_size ", *crop_size,
         " (width x height): pixels between windows would get no prediction.");
}

DeployConfig DeployConfig::load(const fs::path& given) {
  DeployConfig config;
  config.path = fs::is_directory(given) ? given / "deploy.yaml" : given;
  if (!fs::is_regular_file(config.path))
    fail(config.path.string(), ": no such file. Name the folder that an export was written into.");
  const Section root(parse(config.path), config.path.string(), ": ");
  const auto format = root.get<int>("format");
  if (kFormats.count(format) == 0)
    fail(config.path.string(), ": format ", format,
         ", but this program reads formats 1 to 6. Export the model again.");
  config.artefacts = read_artefacts(root, format);
  config.input = read_input(root.section("input"));
  config.output = read_output(root.section("output"));
  read_preprocess(root.section("preprocess"), config);
  config.settings = read_settings(root.section("inference"), config.output.num_classes);
  config.classes = root.get<std::vector<std::string>>("classes");
  config.palette = read_palette(root);
  config.ignore_index = root.get("ignore_index", 255);
  config.fixture = read_fixture(root);
  for (const std::size_t found : {config.classes.size(), config.palette.size()})
    if (found != static_cast<std::size_t>(config.output.num_classes))
      fail(config.path.string(), ": found ", found, " names or colours of classes, but ",
           "output.num_classes is ", config.output.num_classes, ".");
  return config;
}

fs::path DeployConfig::checked_file(const ModelFile& file) const {
  const fs::path found = path.parent_path() / file.name;
  if (!fs::is_regular_file(found))
    fail(found.string(), ": no such file, but deploy.yaml names it. Export again.");
  if (sha256(found) != file.sha256)
    fail(found.string(), ": the file is damaged or was replaced (its checksum is not the one in ",
         "deploy.yaml). Copy the export's folder again, or export again.");
  return found;
}

std::vector<fs::path> DeployConfig::checked_files(const std::vector<std::string>& names) const {
  std::string wanted;
  for (const std::string& name : names) {
    wanted += (wanted.empty() ? "" : " or ") + name;
    if (artefacts.count(name) == 0) continue;
    std::vector<fs::path> files;
    for (const ModelFile& file : artefacts.at(name)) files.push_back(checked_file(file));
    return files;
  }
  fail(path.string(), ": this program runs ", wanted, ", which was not exported. ",
       "Export again with --format ", names.back(), ".");
}

}  // namespace segment
