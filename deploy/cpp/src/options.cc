#include "options.h"

#include <functional>
#include <iomanip>
#include <sstream>
#include <thread>
#include <vector>

#include "error.h"

namespace segment {

namespace {

using Values = std::vector<std::string>;

struct Flag {
  std::string name;
  std::string values;  // names of its values, for the help
  int num_values;
  std::string help;
  std::function<void(Options&, const Values&)> set;
};

int number(const std::string& value) {
  try {
    std::size_t end = 0;
    const int result = std::stoi(value, &end);
    if (end == value.size() && result >= 0) return result;
  } catch (const std::logic_error&) {  // not a number, or too large; told below
  }
  fail("found '", value, "', expected a whole number of 0 or more.");
}

float share(const std::string& value) {
  try {
    std::size_t end = 0;
    const float result = std::stof(value, &end);
    if (end == value.size() && result >= 0 && result <= 1) return result;
  } catch (const std::logic_error&) {  // as above
  }
  fail("found '", value, "', expected a number of 0 to 1.");
}

std::set<std::string> outputs(const std::string& names) {
  static const std::set<std::string> kKnown = {"label", "overlay", "confidence"};
  std::set<std::string> found;
  std::istringstream stream(names);
  for (std::string name; std::getline(stream, name, ',');) {
    if (!kKnown.count(name)) fail("found '", name, "', expected label, overlay or confidence.");
    found.insert(name);
  }
  if (found.empty()) fail("found nothing, expected label, overlay or confidence.");
  return found;
}

cv::Size size(const Values& values) { return {number(values[0]), number(values[1])}; }

const std::vector<Flag>& flags() {
  static const std::vector<Flag> kFlags = {
      {"--config", "PATH", 1, "deploy.yaml of the export, or its folder",
       [](Options& o, const Values& v) { o.config = v[0]; }},
      {"--image_path", "PATH", 1, "image, folder, or list file (.txt)",
       [](Options& o, const Values& v) { o.image_path = v[0]; }},
      {"--self_check", "", 0,
       "first compare the engine with the labels expected for the export's fixture image; without "
       "--image_path nothing else is done",
       [](Options& o, const Values&) { o.self_check = true; }},
      {"--save_dir", "PATH", 1, "folder of the results (default: output/infer)",
       [](Options& o, const Values& v) { o.save_dir = v[0]; }},
      {"--outputs", "NAME,...", 1,
       "what to write: label (the default), overlay, confidence (calibrated, grey PNG files, 255 "
       "for certain)",
       [](Options& o, const Values& v) { o.outputs = outputs(v[0]); }},
      {"--save_confidence", "", 0, "write the confidence too",
       [](Options& o, const Values&) { o.save_confidence = true; }},
      {"--min_confidence", "P", 1,
       "give pixels of a lower confidence (0 to 1) the export's ignore_index: unknown",
       [](Options& o, const Values& v) { o.min_confidence = share(v[0]); }},
      {"--device", "NAME", 1, "cpu, gpu or gpu:1 (default: cpu)",
       [](Options& o, const Values& v) { o.device = v[0]; }},
      {"--threads", "N", 1, "threads on the CPU (default: one per core)",
       [](Options& o, const Values& v) { o.threads = number(v[0]); }},
      {"--warmup", "N", 1, "runs of the first image before the timing begins (default: 0)",
       [](Options& o, const Values& v) { o.warmup = number(v[0]); }},
      {"--is_slide", "", 0, "sliding window instead of the whole image",
       [](Options& o, const Values&) { o.is_slide = true; }},
      {"--crop_size", "W H", 2, "sliding window: width and height in px",
       [](Options& o, const Values& v) { o.crop_size = size(v); }},
      {"--stride", "W H", 2, "step between windows: width and height in px",
       [](Options& o, const Values& v) { o.stride = size(v); }},
      {"--window_batch", "N", 1, "most windows that go through the network together",
       [](Options& o, const Values& v) { o.window_batch = number(v[0]); }},
      {"--max_side_px", "N", 1,
       "longest side that may go through the network at once (default: 8192)",
       [](Options& o, const Values& v) { o.max_side_px = number(v[0]); }},
      {"--help", "", 0, "print this", [](Options& o, const Values&) { o.wants_help = true; }},
  };
  return kFlags;
}

const Flag& find_flag(const std::string& name) {
  for (const Flag& flag : flags())
    if (flag.name == name) return flag;
  fail(name, ": unknown flag; --help lists all.");
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int index = 1; index < argc;) {
    const Flag& flag = find_flag(argv[index++]);
    if (index + flag.num_values > argc) fail(flag.name, ": expected ", flag.values, ".");
    const Values values(argv + index, argv + index + flag.num_values);
    index += flag.num_values;
    try {
      flag.set(options, values);
    } catch (const Error& error) {
      fail(flag.name, ": ", error.what());
    }
  }
  if (options.wants_help) return options;
  if (options.save_confidence) options.outputs.insert("confidence");
  if (options.config.empty() || (options.image_path.empty() && !options.self_check))
    fail("--config and --image_path are needed; --help lists all flags.");
  if (options.threads < 1) fail("--threads: found 0, expected 1 or more.");
  return options;
}

std::string help_text() {
  std::ostringstream lines;
  lines << "Predict images with an exported model: label maps, overlays and confidence.\n\n";
  for (const Flag& flag : flags())
    lines << "  " << std::left << std::setw(22) << flag.name + " " + flag.values << flag.help
          << "\n";
  return lines.str();
}

Settings with_flags(Settings settings, const Options& options) {
  const bool was_slide = settings.is_slide;
  settings.is_slide = was_slide || options.is_slide;
  if ((options.crop_size || options.stride) && !settings.is_slide)
    fail("--crop_size and --stride have no effect without --is_slide. Add --is_slide.");
  if (options.crop_size && !was_slide) settings.stride.reset();  // it belongs to another window
  if (options.crop_size) settings.crop_size = options.crop_size;
  if (options.stride) settings.stride = options.stride;
  if (options.window_batch) settings.window_batch = *options.window_batch;
  settings.check();
  return settings;
}

}  // namespace segment
