// OpenVINO on the CPU.
#include <algorithm>
#include <cmath>
#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>
#include <set>

#include "engine.h"
#include "error.h"

namespace segment {

const std::vector<std::string> kEngineArtefacts = {"openvino", "onnx"};

namespace {

constexpr std::size_t kMaxCompiled = 4;  // shapes that have their own network

/// A network compiled for one shape is faster than one for any shape, but compiling takes about as
/// long as some runs. So a shape has its own network from the second time on that it comes up, as
/// long as no more than `kMaxCompiled` have.
class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const std::vector<std::filesystem::path>& files, const EngineOptions& options)
      : model_(
            core_.read_model(files.at(0).string(), files.size() > 1 ? files.at(1).string() : "")),
        properties_{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                    ov::num_streams(1), ov::inference_num_threads(options.threads),
                    ov::hint::inference_precision(ov::element::f32)} {
    check_weights(files.back());
  }

  Tensor run(const Tensor& input) override {
    const ov::Shape shape(input.shape.begin(), input.shape.end());
    ov::InferRequest& request = request_for(shape);
    // The engine reads the values only; its interface takes no pointer to constant ones.
    request.set_input_tensor(
        ov::Tensor(ov::element::f32, shape, const_cast<float*>(input.values.data())));
    request.infer();
    const ov::Tensor result = request.get_output_tensor();
    const ov::Shape result_shape = result.get_shape();
    if (result_shape.size() != 4)
      fail("the network's output does not have four axes. Export again.");
    Tensor output;
    std::copy(result_shape.begin(), result_shape.end(), output.shape.begin());
    output.values.assign(result.data<float>(), result.data<float>() + result.get_size());
    return output;
  }

  std::string description() const override {
    const std::string version = ov::get_openvino_version().buildNumber;
    return "OpenVINO " + version.substr(0, version.find('-'));
  }

 private:
  ov::InferRequest& request_for(const ov::Shape& shape) {
    if (const auto found = compiled_.find(shape); found != compiled_.end()) return found->second;
    const bool is_new = seen_.insert(shape).second;
    if (is_new || !model_->is_dynamic() || compiled_.size() == kMaxCompiled) {
      if (!any_shape_) any_shape_ = compile(model_);
      return any_shape_;
    }
    const std::shared_ptr<ov::Model> model = model_->clone();
    model->reshape(shape);
    return compiled_.emplace(shape, compile(model)).first->second;
  }

  /// Refuses weights that are not finite, which the engine passes over; single infinite values are
  /// limits of the graph.
  void check_weights(const std::filesystem::path& file) const {
    for (const std::shared_ptr<ov::Node>& node : model_->get_ops()) {
      const auto constant = std::dynamic_pointer_cast<ov::op::v0::Constant>(node);
      if (!constant || !constant->get_element_type().is_real()) continue;
      const std::vector<float> values = constant->cast_vector<float>();
      const bool is_limit = values.size() == 1 && !std::isnan(values.front());
      if (is_limit ||
          std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
        continue;
      fail(file.string(), ": its weights '", node->get_friendly_name(),
           "' are not finite (NaN or infinite). Export a model whose weights are.");
    }
  }

  ov::InferRequest compile(const std::shared_ptr<ov::Model>& model) {
    return core_.compile_model(model, "CPU", properties_).create_infer_request();
  }

  ov::Core core_;
  std::shared_ptr<ov::Model> model_;
  ov::AnyMap properties_;
  ov::InferRequest any_shape_;
  std::map<ov::Shape, ov::InferRequest> compiled_;
  std::set<ov::Shape> seen_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const std::vector<std::filesystem::path>& files,
                                    const EngineOptions& options) {
  if (options.device != "cpu")
    fail("--device: found '", options.device, "', but OpenVINO runs on the CPU here. Use cpu.");
  try {
    return std::make_unique<OpenVinoEngine>(files, options);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(files.at(0).string(), ": OpenVINO cannot load it (", error.what(), ").");
  }
}

}  // namespace segment
