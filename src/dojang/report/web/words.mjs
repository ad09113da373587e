/** Every word of the page, in English and Korean, and numbers as people write them. */

/** @type {Record<string, [string, string]>} */
export const WORDS = {
  network: ["Network", "네트워크"],
  picture: ["Your picture", "사진"],
  choose: ["Choose another picture, or drop one here", "다른 사진을 고르거나 여기에 놓으세요"],
  answer: ["Answer", "답"],
  noAnswer: ["This network gives no classes.", "이 네트워크는 클래스를 내지 않습니다."],
  guessedNames: ["The names are those of ImageNet, guessed from 3 channels in and {n} classes out.", "입력 채널 3개와 클래스 {n}개를 보고 짐작한 ImageNet의 클래스 이름입니다."],
  search: ["Search layers", "층 찾기"],
  found: ["{n} of {all} rows", "{all}개 행 중 {n}개"],
  params: ["parameters", "파라미터"],
  macs: ["MACs", "MAC"],
  shape: ["output", "출력"],
  window: ["window", "창"],
  layer: ["layer", "층"],
  unfold: ["unfold {name}", "{name} 펼치기"],
  fold: ["fold {name}", "{name} 접기"],
  unfoldAll: ["Unfold all", "모두 펼치기"],
  foldAll: ["Fold all", "모두 접기"],
  conv: ["convolution", "합성곱"],
  dense: ["dense layer", "전결합층"],
  other: ["other", "그 밖"],
  share: ["Bars: share of the whole network.", "막대: 네트워크 전체에서 차지하는 몫."],
  bound: ["at least", "최소"],
  maps: ["Maps", "특징 맵"],
  stamp: ["The stamp", "도장"],
  field: ["What one output sees", "출력 하나가 보는 곳"],
  waste: ["Waste", "낭비"],
  beforeAfter: ["Before | after", "전 | 후"],
  strongest: ["{n} maps of {h}×{w}, strongest first (root of the mean square)", "{h}×{w} 맵 {n}장, 강한 순서 (제곱 평균의 제곱근)"],
  vector: ["{n} values, strongest first", "값 {n}개, 강한 순서"],
  more: ["{n} more", "{n}장 더"],
  own: ["each map has its own scale", "맵마다 자기 눈금"],
  common: ["one scale for the layer", "층 전체에 한 눈금"],
  after: ["after", "다음 단계"],
  channel: ["channel {n}", "채널 {n}"],
  openStamp: ["Open the stamp of channel {n}", "채널 {n}의 도장 열기"],
  convention: ["{en}", "MAC 하나는 곱셈 한 번과 덧셈 한 번. 패딩 위의 곱도 셉니다. 편향은 파라미터이지만 MAC이 아닙니다. 풀링, 활성화, 정규화에는 MAC이 없습니다. float32, 배치 1, K = 1000"],
  loading: ["computing …", "계산 중 …"],
  negative: ["negative", "음수"],
  positive: ["positive", "양수"],
  taps: ["filter", "필터"],
  product: ["products", "곱의 합"],
  sum: ["sum of {n} products", "곱 {n}개의 합"],
  bias: ["bias", "편향"],
  result: ["result", "결과"],
  writtenAt: ["written to row {y}, column {x} of channel {c}", "채널 {c}의 {y}행 {x}열에 씁니다"],
  restOf: ["{n} more channels, together", "나머지 채널 {n}개의 합"],
  input: ["input", "입력"],
  output: ["output", "출력"],
  plane: ["input channel", "입력 채널"],
  kernel: ["kernel", "커널"],
  stride: ["stride", "스트라이드"],
  padding: ["padding", "패딩"],
  dilation: ["dilation", "팽창"],
  groups: ["groups", "그룹"],
  transposed: ["transposed", "전치"],
  filters: ["filters", "필터 수"],
  mode: ["filled with", "채우는 값"],
  zero: ["zeros", "0"],
  replicate: ["the edge repeated", "가장자리 반복"],
  reflect: ["mirrored", "거울처럼"],
  circular: ["the other side", "반대쪽"],
  operation: ["operation", "연산"],
  convolution: ["convolution", "합성곱"],
  maxpool: ["maximum (pooling)", "최댓값 (풀링)"],
  meanpool: ["mean (pooling)", "평균 (풀링)"],
  shapes: ["{in} → {out}", "{in} → {out}"],
  counts: ["{p} parameters, {m} MACs", "파라미터 {p}개, MAC {m}번"],
  oneInput: ["taps on padding counted, bias a parameter but no MAC", "패딩 위의 곱도 세고, 편향은 파라미터로만 셉니다"],
  step: ["step", "한 칸"],
  run: ["run", "실행"],
  stop: ["stop", "멈춤"],
  reset: ["as in the network", "네트워크 그대로"],
  changed: ["You changed this layer: the numbers are the page's own, not the network's.", "이 층을 바꾸었습니다. 숫자는 네트워크가 아니라 이 페이지가 계산한 것입니다."],
  fourCases: ["The four cases: 5×5 pixels, kernel 3×3", "네 가지 경우: 5×5 픽셀, 커널 3×3"],
  caseSaid: ["stride {s}, padding {p}: {o}×{o}", "스트라이드 {s}, 패딩 {p}: {o}×{o}"],
  lineCases: ["In one dimension: 7 values, kernel 3", "1차원: 값 7개, 커널 3"],
  lineSaid: ["stride {s}: {o} values", "스트라이드 {s}: 값 {o}개"],
  twoCases: ["A stride for each axis: 5×5 pixels, kernel 3×3", "축마다 다른 스트라이드: 5×5 픽셀, 커널 3×3"],
  twoSaid: ["stride {down} down, {across} across: {h}×{w}", "스트라이드 아래로 {down}, 옆으로 {across}: {h}×{w}"],
  down: ["down", "아래로"],
  across: ["across", "옆으로"],
  apart: ["each axis by itself", "축마다 따로"],
  unread: ["Read by no window, at the end: rows {rows}, columns {columns} (orange; padding included).", "끝에서 어느 창도 읽지 않는 것: 행 {rows}개, 열 {columns}개 (주황색, 패딩 포함)."],
  named: ["filter by name", "이름으로 고르는 필터"],
  ownFilter: ["as it is", "그대로"],
  identity: ["identity", "그대로 통과"],
  blur: ["blur (mean)", "흐림 (평균)"],
  emboss: ["emboss", "양각"],
  outline: ["outline", "윤곽"],
  sharpen: ["sharpen", "선명하게"],
  sobelX: ["edges, vertical", "세로 경계"],
  sobelY: ["edges, horizontal", "가로 경계"],
  noStamp: ["This layer presses no window on its input. Choose a convolution, a pooling or a dense layer.", "이 층은 입력에 창을 대지 않습니다. 합성곱, 풀링, 전결합층을 고르세요."],
  tooLarge: ["The input of this layer is too large to bring here ({n} values).", "이 층의 입력이 너무 커서 가져올 수 없습니다 (값 {n}개)."],
  noMaps: ["No maps: {why}. The layers and their costs are shown.", "맵이 없습니다: {why}. 층과 비용만 보입니다."],
  whyWeights: ["the network has no weights: give them with --weights FILE, or train it first", "네트워크에 가중치가 없습니다. --weights FILE로 주거나 먼저 학습하세요"],
  whyOperators: ["operators that dojang cannot run: {names}", "dojang이 실행할 수 없는 연산자: {names}"],
  whyInputType: ["the input {name} takes values of type {type}, of which no sample is drawn", "입력 {name}의 자료형이 {type}이라 표본을 만들 수 없습니다"],
  whyNoInput: ["the network has no input", "네트워크에 입력이 없습니다"],
  inputs: ["Inputs of the network", "네트워크의 입력"],
  severalInputs: ["This network has {n} inputs: choose which one is shown, and which one another picture goes into.", "이 네트워크의 입력은 {n}개입니다. 보여 줄 입력, 다른 사진을 넣을 입력을 고르세요."],
  drawnAnswer: ["It rests on values that were drawn at random, because none were given.", "주어진 값이 없어 무작위로 뽑은 값을 넣고 얻은 답입니다."],
  whyOther: ["{why}", "{why}"],
  takesNone: ["this input takes no picture", "이 입력은 사진을 받지 않습니다"],
  fieldPictures: ["receptive fields are measured on pictures and sequences of real numbers only", "수용 영역은 사진과 실수 수열에서만 잽니다"],
  pictureChanged: ["another picture was chosen meanwhile", "그사이에 다른 사진을 골랐습니다"],
  notDrawn: ["{layer}: its values cannot be drawn as maps (shape {shape})", "{layer}: 값을 맵으로 그릴 수 없습니다 (모양 {shape})"],
  filterAxes: ["{layer}: filters with more than two axes are not drawn", "{layer}: 축이 셋 이상인 필터는 그리지 않습니다"],
  notKept: ["{layer} is computed together with a layer beside it, and this file does not keep its values; `dojang show` without -o shows them", "{layer}은(는) 옆의 층과 함께 계산되어 이 파일에는 값이 남지 않습니다. -o 없이 `dojang show`를 쓰면 보입니다"],
  notComputed: ["{layer} has no kernel in the browser, or depends on a layer that has none; `dojang show` without -o computes it", "{layer}은(는) 브라우저용 커널이 없거나, 그런 층에 달려 있습니다. -o 없이 `dojang show`를 쓰면 계산합니다"],
  noFilter: ["this file holds no filter of {layer}; `dojang show` without -o shows it", "이 파일에는 {layer}의 필터가 없습니다. -o 없이 `dojang show`를 쓰면 보입니다"],
  noMemory: ["not enough memory", "메모리가 모자랍니다"],
  pictureTooLarge: ["more than {n} MiB; choose a smaller picture", "{n} MiB보다 큽니다. 더 작은 사진을 고르세요"],
  refusedPicture: ["{why}", "이 사진은 쓸 수 없습니다 ({why})"],
  serverGone: ["dojang no longer answers: its command has ended. Start it again, and open the address that it prints", "dojang이 더는 답하지 않습니다. 명령이 끝났습니다. 다시 시작해서 출력되는 주소를 여세요"],
  rounded: ["This file holds the weights as {kind}; the sums are in float32.", "이 파일의 가중치는 {kind}로 저장되었고, 합은 float32로 계산합니다."],
  noNetwork: ["this file holds no network that can be run", "이 파일에는 실행할 수 있는 네트워크가 없습니다"],
  noSamples: ["this page holds no samples; start with --data DATA", "이 페이지에는 표본이 없습니다. --data DATA로 시작하세요"],
  noPicture: ["{name}: no picture that can be read", "{name}: 읽을 수 있는 사진이 아닙니다"],
  noKernelAnswer: ["the answer depends on a layer that this page cannot compute", "답이 이 페이지가 계산할 수 없는 층에 달려 있습니다"],
  madeScaled: ["scaled and cropped to {shape}", "{shape}에 맞게 크기를 바꾸고 자름"],
  madePixels: ["uint8 / 255", "uint8 / 255"],
  madeValues: ["values", "값"],
  madeAsTheyStand: ["values as they stand", "값을 그대로 씀"],
  madeNormalisedAlready: ["values as they stand: floats count as normalised already, uint8 as pixels", "값을 그대로 씀: 실수는 이미 정규화된 것으로, uint8은 픽셀로 봅니다"],
  madeDrawn: ["{shape} numbers drawn at random from the normal distribution", "정규 분포에서 무작위로 뽑은 값 {shape}"],
  madeDrawnWhole: ["{shape} whole numbers from 0 to {most}, drawn at random", "0부터 {most}까지에서 무작위로 뽑은 정수 {shape}"],
  madeOnes: ["{shape} times 1", "모두 1 ({shape})"],
  normalisedBy: ["{made}, minus {mean}, over {std}", "{made}, 정규화 (평균 {mean}, 표준편차 {std})"],
  from0To1: ["{made}, values 0 to 1", "{made}, 값은 0–1"],
  lacking: ["Without a kernel in the browser: {names}. What depends on them is not shown; `dojang show` without -o computes it.", "브라우저용 커널이 없는 층: {names}. 여기에 달린 값은 보이지 않습니다. -o 없이 `dojang show`를 쓰면 계산합니다."],
  fieldSaid: ["Row {y}, column {x} of {layer} sees {h}×{w} pixels: rows {y0} to {y1}, columns {x0} to {x1}.", "{layer}의 {y}행 {x}열은 {h}×{w} 픽셀을 봅니다: {y0}–{y1}행, {x0}–{x1}열."],
  fieldLine: ["Place {x} of {layer} sees {w} values: {x0} to {x1}.", "{layer}의 {x}번 자리는 값 {w}개를 봅니다: {x0}–{x1}."],
  fieldPadding: ["What lies outside of the picture is padding.", "사진 밖은 패딩입니다."],
  fieldElsewhere: ["{layer} does not depend on this input.", "{layer}은(는) 이 입력에 의존하지 않습니다."],
  fieldNone: ["Which pixels this layer sees is not known.", "이 층이 어느 픽셀을 보는지 알 수 없습니다."],
  measure: ["Measure it on this picture", "이 사진에서 재기"],
  measuredSaid: ["Measured: 95 % of the effect on this place comes from {n} of {all} parts of the picture ({share}; green: strength). Noise of the picture's own spread was added to one part after the other.", "측정: 이 자리에 미치는 영향의 95 %가 사진 {all}조각 중 {n}조각에서 옵니다 ({share}, 초록: 세기). 표준편차가 사진과 같은 잡음을 조각마다 차례로 더했습니다."],
  measuredNone: ["Measured: no part of the picture moves this place.", "측정: 사진의 어느 조각도 이 자리의 값을 바꾸지 않습니다."],
  throughLayers: ["layer {n} of {all}", "{all}개 중 {n}번째 층"],
  moveHere: ["place of the output: arrow keys move it", "출력의 자리: 화살표 키로 옮깁니다"],
  deeper: ["A larger kernel, or more layers?", "큰 커널인가, 더 많은 층인가?"],
  deeperSaid: ["Both columns see the same pixels. Weights per pair of input and output channels, without biases; as many channels in as out.", "두 열은 같은 픽셀을 봅니다. 입력·출력 채널 한 쌍당 가중치 수 (편향 제외, 입력과 출력 채널 수가 같을 때)."],
  sees: ["sees", "보는 넓이"],
  oneKernel: ["one kernel", "커널 하나"],
  threes: ["layers of 3×3", "3×3 층"],
  weightsEach: ["{k}×{k}: {n} weights", "{k}×{k}: 가중치 {n}개"],
  layersEach: ["{l} × 3×3: {n} weights", "3×3 {l}층: 가중치 {n}개"],
  wasteNone: ["No evidence: start with --data DATA to see what the channels do on samples.", "근거가 없습니다. --data DATA로 시작하면 표본에서 채널이 하는 일을 볼 수 있습니다."],
  wasteSaid: ["Channels on {n} samples, in the order of the layers.", "표본 {n}개에서 본 채널, 층 순서대로."],
  used: ["in use", "쓰임"],
  dead: ["dead", "죽음"],
  constant: ["constant", "상수"],
  duplicate: ["duplicate", "중복"],
  silent: ["silent", "조용함"],
  markers: ["{n} wasted", "낭비 {n}"],
  correlation: ["Correlation between the input and the output channels of {layer}", "{layer}의 입력 채널과 출력 채널 사이의 상관"],
  groupsSaid: ["Groups: {g}. In the order shown {a} of the squared correlation stays inside them; an arbitrary split keeps {b}.", "그룹 {g}개: 보이는 순서에서 상관 제곱합의 {a}가 그룹 안에 남습니다. 아무렇게나 나누면 {b}가 남습니다."],
  axes: ["Rows ↓: {h} input channels. Columns →: {w} output channels. Lines: the groups.", "행 ↓: 입력 채널 {h}개. 열 →: 출력 채널 {w}개. 선: 그룹."],
  findings: ["Findings", "발견"],
  kind_not_finite: ["not-finite", "NaN이나 무한대가 있다"],
  kind_constant_answers: ["constant-answers", "모든 표본에 같은 답을 낸다"],
  kind_no_better_than_majority: ["no-better-than-majority", "가장 큰 클래스만 답해도 이만큼 맞는다"],
  kind_dead_proven: ["dead-proven", "어떤 입력에도 0인 채널 (증명)"],
  kind_dead_observed: ["dead-observed", "모든 표본에서 0인 채널 (관찰)"],
  kind_constant: ["constant", "값이 하나뿐인 채널"],
  kind_duplicate: ["duplicate", "다른 채널의 배수인 채널"],
  kind_repeated: ["repeated", "다른 층과 같은 것을 계산한다"],
  kind_unread: ["unread", "아무도 읽지 않는다"],
  kind_class_missed: ["class-missed", "한 클래스의 표본을 하나도 맞히지 못한다"],
  kind_exploding: ["exploding", "값이 폭발한다"],
  kind_vanishing: ["vanishing", "값이 사라진다"],
  kind_saturated: ["saturated", "활성값의 절반 넘게 범위 끝에 있다"],
  kind_sensitive: ["sensitive", "가중치를 반올림하면 답이 1 % 넘게 바뀐다"],
  kind_low_correlation: ["low-correlation", "그룹으로 나눌 수 있다"],
  kind_low_rank: ["low-rank", "필터들이 펼치는 방향이 필터 수보다 적다"],
  kind_coverage: ["coverage", "합성곱의 입력이 이미 사진 전체를 본다"],
  kind_hot_spot: ["hot-spot", "비용의 큰 몫을 차지한다"],
  kind_idle_block: ["idle-block", "없어도 답이 거의 바뀌지 않는 블록"],
  before: ["before", "전"],
  now: ["after", "후"],
  dividerSaid: ["Divider between before and after", "전과 후 사이의 칸막이"],
  answersChanged: ["{n} of {all} samples have another answer", "표본 {all}개 중 {n}개의 답이 다릅니다"],
  sameAnswers: ["The best class is the same.", "가장 높은 클래스가 같습니다."],
  otherAnswers: ["The best class is another one.", "가장 높은 클래스가 달라졌습니다."],
  splitMeasured: ["Measured: so split, the outputs of the layer move by {a} of their variance; by a random split {b}.", "측정: 이렇게 나누면 층의 출력이 분산의 {a}만큼 바뀌고, 무작위로 나누면 {b}만큼 바뀝니다."],
  runTime: ["least time of 14 runs, in turns, here", "여기서 번갈아 14번 중 가장 짧은 시간"],
  cuts: ["What was cut, and the finding that each cut answers", "자른 것, 그리고 각각이 답하는 발견"],
  onlyAfter: ["The network before has no layer of this name.", "앞의 네트워크에는 이 이름의 층이 없습니다."],
  otherSizes: ["The maps of this layer have another size before.", "이 층의 맵 크기가 서로 다릅니다."],
  dividerNote: ["Left of the divider: before; right: after. Each map stands beside the one that is most like it on this picture.", "칸막이 왼쪽은 전, 오른쪽은 후. 각 맵은 이 사진에서 가장 닮은 맵과 짝지었습니다."],
  gone: ["not there", "없음"],
  keys: ["Keys: arrows move, space runs, / searches.", "키: 화살표로 옮기고, 스페이스로 실행하고, /로 찾습니다."],
  keysAlone: ["Keys: arrows move, space runs.", "키: 화살표로 옮기고, 스페이스로 실행합니다."],
  lead: ["A convolution presses the same small stamp on every place of a picture.", "합성곱은 같은 작은 도장을 사진의 모든 자리에 찍습니다."],
  times: ["×{n}", "×{n}"],
  alone: ["photo", "사진"],
  red: ["red", "빨강"],
  green: ["green", "초록"],
  blue: ["blue", "파랑"],
  failed: ["This did not work: {why}", "되지 않았습니다: {why}"],
};

let language = 0;

/** @param {string} lang "en" or "ko" */
export function speak(lang) {
  language = lang === "ko" ? 1 : 0;
  document.documentElement.lang = lang === "ko" ? "ko" : "en";
}

export const spoken = () => (language ? "ko" : "en");

/**
 * The text of a key, with {names} replaced.
 * @param {string} key
 * @param {Record<string, unknown>} [values]
 */
export function t(key, values = {}) {
  const text = WORDS[key];
  if (!text) throw new Error(`no words for ${key}`);
  return text[language].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** A kind of finding (`evidence/severity.py`) in the language of now. @param {string} kind */
export const kindOf = (kind) => { const key = `kind_${kind.replaceAll("-", "_")}`; return WORDS[key] ? t(key) : kind; };

/** A sentence of the server or of the network (`Sentence` of `app/sentences.py`) in the language of now. @param {{key: string, english: string, values: Record<string, unknown>}} one */
export const sentence = ({ key, english, values }) => (WORDS[key] ? t(key, values) : english);

const MADE = /** @type {Record<string, string>} */ ({ scaled: "madeScaled", pixels: "madePixels", values: "madeValues", "as-they-stand": "madeAsTheyStand", "normalised-already": "madeNormalisedAlready", drawn: "madeDrawn", "drawn-whole": "madeDrawnWhole", ones: "madeOnes" });

/** How an input was made, as `InputPreparation` of `app/prepared.py` says it in English. @param {import("./source.mjs").InputPreparation} prepared */
export function preparation({ made, shape, mean, std, most }) {
  const said = t(MADE[made], { shape: shape.join("×"), most });
  if (!["scaled", "pixels", "values"].includes(made)) return said;
  return t(mean ? "normalisedBy" : "from0To1", { made: said, mean, std });
}

/** @param {number} n */
export const whole = (n) => Math.round(n).toLocaleString("en-US");

/** 25.6M, 4.09G, 118K: K = 1000. @param {number|null} n */
export function short(n) {
  if (n === null || n === undefined) return "?";
  for (const [size, letter] of /** @type {[number, string][]} */ ([[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "K"]]))
    if (Math.abs(n) >= size) return `${(n / size).toPrecision(3).replace(/\.0+$|(\.\d*[1-9])0+$/, "$1")}${letter}`;
  return String(n);
}

/** A value with about three digits and a true minus sign. @param {number} v */
export function value(v) {
  if (!Number.isFinite(v)) return Number.isNaN(v) ? "NaN" : v > 0 ? "∞" : "−∞";
  if (v === 0) return "0";
  const size = Math.abs(v);
  const text = size >= 1e5 || size < 1e-3 ? size.toExponential(1) : size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size.toFixed(2);
  return /^0\.?0*$/.test(text) ? size.toExponential(0).replace(/^/, v < 0 ? "−" : "") : (v < 0 ? "−" : "") + text;
}

/** @param {number} share 0 to 1 */
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}\u00a0%`;

/** @param {number[]|null} shape channels first */
export const by = (shape) => (shape ? shape.join("×") : "?");
