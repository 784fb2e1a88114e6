// A mapping of a YAML file, whose mistakes are told with the key's full name.
#pragma once

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <initializer_list>
#include <opencv2/core.hpp>
#include <optional>
#include <string>
#include <vector>

#include "error.h"

namespace segment {

class Section {
 public:
  /// `separator` stands between its name, such as that of a file, and its keys.
  Section(YAML::Node node, std::string name, std::string separator = ".")
      : node_(std::move(node)), name_(std::move(name)), separator_(std::move(separator)) {
    if (!node_.IsMap()) fail(name_, ": expected keys and values.");
  }

  const std::string& name() const { return name_; }

  /// Returns the name of a key as a user finds it in the file.
  std::string name_of(const std::string& key) const { return name_ + separator_ + key; }

  bool has(const std::string& key) const { return node_[key] && !node_[key].IsNull(); }

  /// Returns the value, or nothing where the key is missing or null.
  template <typename T>
  std::optional<T> find(const std::string& key) const {
    if (!has(key)) return std::nullopt;
    try {
      return node_[key].as<T>();
    } catch (const YAML::Exception&) {
      fail(name_of(key), ": found '", flow(node_[key]),
           "', which is not of the kind expected here.");
    }
  }

  template <typename T>
  T get(const std::string& key) const {
    if (const auto value = find<T>(key)) return *value;
    fail(name_of(key), ": missing. Export the model again.");
  }

  template <typename T>
  T get(const std::string& key, T fallback) const {
    return find<T>(key).value_or(fallback);
  }

  Section section(const std::string& key) const { return {get<YAML::Node>(key), name_of(key)}; }

  std::vector<Section> sections(const std::string& key) const {
    std::vector<Section> result;
    for (const YAML::Node& node :
         find<std::vector<YAML::Node>>(key).value_or(std::vector<YAML::Node>{}))
      result.emplace_back(node, text(name_of(key), "[", result.size(), "]"));
    return result;
  }

  /// Returns a list, or a single value as a list of one.
  std::vector<double> numbers(const std::string& key) const {
    if (has(key) && node_[key].IsScalar()) return {get<double>(key)};
    return get<std::vector<double>>(key);
  }

  /// Refuses keys that this program does not know: leaving one out would change the result.
  void expect_only(std::initializer_list<const char*> known) const {
    for (const auto& item : node_) {
      const auto key = item.first.as<std::string>();
      if (std::find(known.begin(), known.end(), key) == known.end())
        fail(name_, ": unknown key '", key, "'.");
    }
  }

 private:
  static constexpr std::size_t kMaxShown = 80;

  /// Returns a value in one line, cut off where it gets long.
  static std::string flow(const YAML::Node& node) {
    YAML::Emitter emitter;
    emitter.SetMapFormat(YAML::Flow);
    emitter.SetSeqFormat(YAML::Flow);
    emitter << node;
    const std::string line = emitter.c_str();
    return line.size() > kMaxShown ? line.substr(0, kMaxShown) + "..." : line;
  }

  YAML::Node node_;
  std::string name_;
  std::string separator_;
};

}  // namespace segment
