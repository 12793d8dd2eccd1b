/* clang-format off */
#include "suites/chronicle_words.h"

#define ITEMS(name, ...) static const char *const name##_items[] = {__VA_ARGS__}
#define LIST(name, ...)                                                                                      \
    static const char *const name##_items[] = {__VA_ARGS__};                                                 \
    const struct words name = {name##_items, sizeof name##_items / sizeof name##_items[0]}

LIST(words_first, "Mara", "Tobias", "Ines", "Oswin", "Hedda", "Anselm", "Petra", "Corin", "Lidia", "Rufus",
     "Elspeth", "Jonas", "Maud", "Silas", "Greta", "Ambrose", "Nell", "Felix", "Wanda", "Hugo", "Thea",
     "Piers", "Agnes", "Leopold", "Rosalind", "Edmund", "Clara", "Basil", "Harriet", "Matthias", "Beatrix",
     "Gideon", "Sabine", "Walter", "Ottilie", "Crispin", "Judith", "Ralph", "Marta", "Desmond", "Flora",
     "Ignatius", "Lucy", "Osbert", "Hester", "Victor", "Dorothea", "Simon", "Ursula", "Bernard", "Magda",
     "Percival", "Esther", "Roland", "Winifred", "Laurence");
LIST(words_first_head, "Al", "Bran", "Cor", "Dar", "El", "Fen", "Gar", "Hal", "Is", "Jor", "Kel", "Lor",
     "Mer", "Nor", "Or", "Pel", "Quen", "Ros", "Sel", "Tam", "Ul", "Ver", "Wil", "Yor", "Zan", "Ber", "Cal",
     "Del", "Ed", "Mal");
LIST(words_first_tail, "a", "an", "ard", "bert", "da", "den", "dis", "ena", "eth", "fin", "ia", "ic", "ina",
     "is", "la", "len", "mund", "na", "nor", "o", "ric", "sa", "ta", "thea", "ton", "vin", "wen", "wyn");
LIST(words_surname_head, "Ash", "Black", "Cold", "Dun", "East", "Fair", "Green", "Hart", "Holl", "Kirk",
     "Lang", "March", "North", "Oak", "Pen", "Rad", "Stan", "Thorn", "Under", "Wake", "West", "White", "Wind",
     "Wood");
LIST(words_surname_tail, "all", "brook", "bury", "by", "combe", "den", "er", "field", "ham", "ing", "land",
     "ley", "man", "more", "ridge", "row", "son", "stone", "ton", "way", "well", "wick", "wood", "worth");
LIST(words_village_head, "Har", "Thorn", "Ald", "Bram", "Cress", "Dray", "Elm", "Fal", "Glen", "Hol", "Ivy",
     "Kel", "Lark", "Mel", "Nether", "Ottar", "Pad", "Quar", "Rush", "Sed", "Tarn", "Up", "Wex", "Yar", "Ber",
     "Crow", "Dun", "Fox", "Hazel", "Mar", "Otter", "Raven", "Stour", "Swan", "Wil", "Wren");
LIST(words_village_tail, "row", "wick", "bourne", "bridge", "cliff", "cote", "croft", "dale", "fell", "ford",
     "gate", "gill", "holm", "hurst", "leigh", "mere", "minster", "mouth", "ness", "stead", "stow", "thwaite",
     "ton", "well");

LIST(words_thing_adj, "brass", "silver", "wooden", "broken", "painted", "iron", "ivory", "leather", "gilded",
     "cracked", "carved", "pewter", "velvet", "rusty", "glass", "crooked", "tarnished", "polished", "heavy",
     "little", "old", "striped", "folding", "woven", "marble", "enamel", "borrowed", "dented", "scarlet",
     "blue", "green", "yellow");
LIST(words_thing, "lantern", "comb", "flute", "compass", "kettle", "mirror", "saddle", "candlestick", "drum",
     "locket", "hourglass", "chessboard", "violin", "telescope", "teapot", "basket", "umbrella", "clock",
     "hammer", "trunk", "prayer book", "bridle", "cradle", "spyglass", "thimble", "whistle", "ladder", "bell",
     "spoon", "mask", "kite", "anvil", "globe", "sundial", "goblet", "ring", "trumpet", "spindle", "barrel",
     "sword");
LIST(words_site, "mill", "chapel", "ferry house", "smithy", "tannery", "granary", "toll gate", "bakehouse",
     "boathouse", "brewery", "school", "tower", "sawmill", "quarry", "orchard", "market hall", "dovecote",
     "lighthouse", "abbey", "lime kiln", "pottery", "old inn", "cider press", "bell foundry", "cattle pound",
     "rope walk", "salt store", "almshouse", "ice house", "printing shop", "stables", "watch house");
LIST(words_secret_adj, "copper", "amber", "silent", "winter", "hollow", "golden", "northern", "paper",
     "velour", "bitter", "sleeping", "burning", "crystal", "drowned", "early", "feathered", "gentle",
     "hidden", "jade", "lonely", "midnight", "narrow", "opal", "purple", "quiet", "restless", "sunken",
     "twisted", "wandering", "crimson", "frozen", "silken");
LIST(words_secret_noun, "heron", "anchor", "falcon", "thistle", "harbour", "beetle", "comet", "willow",
     "badger", "ember", "fiddle", "glacier", "hazelnut", "iris", "jackal", "kestrel", "lobster", "meadow",
     "nettle", "oyster", "panther", "quartz", "raindrop", "salmon", "tulip", "urchin", "viper", "walnut",
     "yarrow", "zephyr", "magnet", "pelican");
LIST(words_boat_adj, "Patient", "Grey", "Merry", "Faithful", "Bold", "Second", "Lucky", "Fair", "Honest",
     "Swift", "Humble", "Bright", "Weary", "Noble", "Idle", "Proud");
LIST(words_boat_noun, "Linnet", "Petrel", "Margaret", "Dolphin", "Curlew", "Pilgrim", "Venture", "Maiden",
     "Cormorant", "Duchess", "Swallow", "Endeavour", "Porpoise", "Widow", "Star", "Charlotte", "Gannet",
     "Harvest");
LIST(words_goods, "tallow", "barley", "salt", "linen", "honey", "charcoal", "wool", "timber", "slate",
     "cheese", "rope", "tar", "flax", "oats", "nails", "wine", "pepper", "candles", "hides", "herring",
     "lead", "paper", "malt", "hops", "soap", "coal", "butter", "ink", "cloth", "lime");
LIST(words_coin, "crowns", "shillings", "florins", "ducats", "marks", "guilders");
LIST(words_box, "strongbox", "sea chest", "writing desk", "cupboard", "cash box", "cellar door", "wine cask",
     "tool chest", "clothes press", "gun case");
LIST(words_event, "wedding", "trial", "journey", "return", "sermon", "auction", "christening", "departure",
     "race", "lecture", "duel", "concert", "birthday", "election", "arrest", "promotion", "confession",
     "wager", "voyage", "oath");
LIST(words_deed, "mended", "moved", "bought", "painted", "buried", "found", "burned", "designed", "sold",
     "cleaned", "measured", "damaged", "guarded", "blessed", "repaired", "inspected");
LIST(words_deed_thing, "bridge", "great bell", "weathercock", "town clock", "signpost", "boundary stone",
     "pump", "organ", "fountain", "ferry rope", "flagpole", "village map", "archway", "old statue",
     "market cross", "north wall", "sluice gate", "long barn", "parish register", "beacon");
LIST(words_month, "January", "February", "March", "April", "May", "June", "July", "August", "September",
     "October", "November", "December");
LIST(words_ordinal, "1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th", "11th", "12th",
     "13th", "14th", "15th", "16th", "17th", "18th", "19th", "20th", "21st", "22nd", "23rd", "24th", "25th",
     "26th", "27th", "28th");

LIST(words_weather, "rain", "fog", "sleet", "a thin snow", "a hard frost", "a warm wind", "thunder",
     "drizzle", "a dry heat", "a pale sunshine", "low cloud", "a storm from the sea", "mist", "hail",
     "a still, grey cold", "the first thaw");
LIST(words_time, "in the morning", "at noon", "before dawn", "at dusk", "after supper", "late in the night",
     "at the turn of the tide", "on the next market day", "a week later", "toward evening",
     "when the bells had stopped", "on the third day", "soon after", "by candlelight", "that same hour",
     "before the week was out", "after the harvest", "in the dead of winter");
LIST(words_beast, "a dog", "a grey mare", "two oxen", "a goat", "the cat", "a flock of geese", "an owl",
     "a fox", "the hens", "a lame pony", "some rooks", "a swarm of bees", "a hare", "three pigs", "a mule",
     "the swallows");
LIST(words_food, "bread and onions", "cold mutton", "barley soup", "a pear tart", "smoked eel", "porridge",
     "plums", "a wheel of hard curd", "roast chestnuts", "oatcakes", "boiled eggs", "pickled cabbage",
     "a hot pie", "apples", "bean stew", "ginger biscuits");
LIST(words_trade, "miller", "ferryman", "clerk", "weaver", "schoolmaster", "tinker", "surgeon", "carter",
     "shepherd", "glazier", "innkeeper", "sexton", "bailiff", "cooper", "midwife", "drover", "beekeeper",
     "magistrate", "thatcher", "widow", "fiddler", "constable", "gardener", "curate", "pedlar");
LIST(words_mood, "tired", "cheerful", "uneasy", "proud", "ashamed", "curious", "hungry", "stubborn",
     "grateful", "silent", "angry", "hopeful", "bewildered", "calm", "jealous", "sorry", "restless", "merry",
     "cautious", "sleepy");
LIST(words_manner, "slowly", "without a word", "with great care", "in haste", "as if nothing had happened",
     "badly", "against all advice", "laughing", "in a low voice", "twice", "for no clear reason",
     "by the longest road", "with both hands", "under protest", "politely", "once more", "alone",
     "before anyone could object");
LIST(words_nature, "the river", "the hill", "the marsh", "the old wood", "the shore", "the ridge", "the ford",
     "the heath", "the valley", "the north road", "the lane", "the common", "the pond", "the cliffs",
     "the long meadow", "the beeches");
LIST(words_tool, "a spade", "a lamp", "a bundle of letters", "a sack of meal", "a coil of wire", "an axe",
     "a pair of boots", "a blanket", "a bucket", "a walking stick", "a roll of canvas", "a loaf",
     "a purse of coppers", "a jar of oil", "a broom", "a bag of seed");
LIST(words_saying, "what is owed is not forgotten", "a shut gate keeps no secrets",
     "the tide asks nobody's leave", "every road is longer in the telling", "one lie needs ten more",
     "a borrowed coat is always cold", "the river keeps its own accounts", "no clock strikes for the dead",
     "the last to speak pays for the ale", "a good neighbour is a locked door",
     "he who counts twice sleeps once", "snow hides the ditch and not the cow",
     "nothing is lost that is written down", "the young forget and the old pretend to");
LIST(words_colour, "red", "black", "white", "brown", "grey", "violet", "rose", "pale", "dark",
     "straw-coloured");
LIST(words_count, "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "a dozen", "twenty",
     "forty");
LIST(words_season, "spring", "summer", "autumn", "winter", "Lent", "harvest time");
LIST(words_act, "shut the gate", "lit the stove", "counted the sheep", "swept the floor",
     "read the notice aloud", "asked for the bill", "sat down on the step", "wrote a line in the book",
     "looked out over {r}", "paid the carter", "sharpened a knife", "went to fetch {x}", "ate {f}",
     "spoke of the {T}", "fell asleep", "sang the old song", "fed {b}", "waited for the post",
     "told the story again", "turned back at {r}", "put on a {k} coat", "quarrelled with the {T}",
     "laughed at the {T}", "carried {x} up the stairs");

/* {A} {B} two of the people, {T} trade, {n} village, {w} weather, {t} time, {b} beast, {f} food, {m} mood,
 * {d} manner, {r} landscape, {x} tool, {z} saying, {k} colour, {#} count, {a} act, {s} season. */
LIST(patterns_filler, "{w} came over {r}, and nobody went out but {A} and the {T}.", "{A} {a}, and {B} {a}.",
     "{A} was {m} and {a} {d}.", "{t} {A} {a}, because the {T} had gone to {n}.",
     "It was {s}, and there was {w} on {r} for {#} days.", "The {T} of {n} said that {z}.",
     "{A} and {B} walked along {r} {d}, and talked of nothing but {f}.",
     "{b} had got into the garden again, and {A} {a}.", "Nobody in {n} had seen {b} since {s}.",
     "{A}, who was {m}, would not speak to the {T}.", "{t} there was {w}, and the road to {n} was closed.",
     "If {A} had {a} {t}, the {T} would have been {m}.", "{A} asked for {f}, and was given {f} instead.",
     "{B} thought {A} {m}, and {A} thought {B} worse than {m}.",
     "For {#} weeks the people of {n} waited for {w}.",
     "{A} {a}; then {A} {a}; and {t} both things were regretted.",
     "There were {#} {k} stones beside {r}, and {A} counted them {d}.",
     "The {T} and the {T} could not agree about {b}.", "\"{Z},\" said {A}, and {a}.",
     "{t} the {T} came from {n} with {x} and {x}.", "{B} said that it would be {s} before {w} ended.",
     "{A} had dreamed of {r} and of {b}, and woke {m}.",
     "They say in {n} that {z}, but {A} did not believe it.",
     "{A} kept {x} under the bed, and {x} behind the door, and trusted the {T} with neither.",
     "When {B} came to {n} there was {w}, and {b} stood in the road.",
     "{A} was {m} {t}, {m} at supper, and {m} when the lamps went out.",
     "Never had {B} seen so many {k} coats in {n}.", "{d}, and to the surprise of the {T}, {A} {a}.",
     "The children of {n} had a game with {x} and {#} pebbles, which the {T} forbade.",
     "{A} owed {B} a supper of {f}, and paid it {d}.",
     "{t} {B} went down to {r}, where {b} and {b} were, and came back {m}.",
     "Between {n} and {r} there is nothing but heather and {w}.",
     "The {k} house by {r} belonged to a {T}, whose sons were all {m}.",
     "{A} could neither read nor count, but {a} {d}.",
     "{B} had a {k} hat, of which the whole of {n} was {m}.",
     "No one remembered who first {a}, whether {A} or the {T}.", "It is not known why {A} {a} {t}.",
     "So {s} went by, with {w} and {f} and talk of the {T}.",
     "{A} gave the {T} {x}, and the {T}, who was {m}, gave it to {B}.",
     "Was it {w}, or was it {b}? {A} could not tell.",
     "The road by {r} was so bad that {A} left the cart there and {a}.",
     "{#} people from {n} stood before the {T}'s door, all of them {m}.");
LIST(patterns_speech, "\"{Z},\" said the {T}. \"Then you must be {m},\" said {A}.",
     "\"Have you seen {b}?\" asked {A}. \"Only {w}, and {x},\" said {B}.",
     "\"I am {m},\" said {B}, \"and I shall be {m} {t}.\"", "\"Who {a}?\" cried the {T}. Nobody answered.",
     "\"Come to {n} with me,\" said {A}, \"and bring {x}.\" {B} {a}.",
     "\"There will be {w},\" said the {T}, {d}. {A} {a}.", "\"Not for {#} pounds,\" said {B}, and {a}.",
     "\"You {a}, and I saw it,\" said {A}. \"You saw {b},\" said {B}.");
LIST(patterns_chapter, "The Road to {n}", "In Which {A} Is {M}", "{S}", "What the {T} Said", "{A} and {B}",
     "A Letter from {n}", "The {T}'s Account", "The Winter in {n}", "Of {A}, and of the {T}",
     "Down by the Water");
LIST(patterns_refrain, "{w} on {r} and the lamp burned low,", "Oh, {z},", "{A} went up and {A} came down,",
     "And it's {#} long miles to {n} town.", "Sing {s}, sing {s}, and bar the door,",
     "And the {T} shall dance no more, no more.", "The {k} leaf falls and the {k} cock crows,",
     "But where {A} went no one knows.");
LIST(patterns_letter_open, "I write to you from {n}, where there is {w}.", "Your letter found me {m}.",
     "Forgive my silence; I have been {m} since {s}.", "The {T} takes this to you with {x}.",
     "There is little news in {n}.");
LIST(patterns_letter_close, "Keep well, and beware of the {T}.", "I remain {m}, but I remain.",
     "Remember that {z}.", "Write to me {t}.", "Burn this when you have read it.");
LIST(patterns_ask, "The {T} asked: {Q}", "\"{Q}\" asked {A}.", "{A} wished to know {i}.",
     "In the margin somebody has written: {Q}");
LIST(patterns_reply, "The answer was {v}.", "It was {v}.", "\"It was {v},\" said the {T}.",
     "They looked it up: {v}.");
LIST(patterns_diary, "Monday, in {s}.", "Tuesday, with {w}.", "Wednesday, at {n}.", "Thursday. I am {m}.",
     "Friday, and {w} again.", "Saturday, by {r}.", "Sunday. The {T} preached.");

/* Facts: {p} the subject, {o} its object, {q} a second person, {v} the value. */
ITEMS(left_state, "{p} left the {o} at {v}.", "{t} {p} hid the {o} at {v}.",
      "{p}, who was {m}, left the {o} at {v} and told nobody.", "It was at {v} that {p} left the {o}.",
      "Being {m}, {p} carried the {o} away and left it at {v}.");
ITEMS(left_ask, "Where did {p} leave the {o}?", "Where was the {o} of {p} left?");
ITEMS(left_indirect, "where {p} left the {o}", "where the {o} of {p} was left");
ITEMS(left_recall, "Nobody had moved the {o} that {p} left at {v}.", "{p} went back for the {o}, to {v}.",
      "They found the {o} of {p} where it had been left, at {v}.");
ITEMS(secret_state, "The secret word of {p} is {v}.", "{p} chose {v} as a secret word.",
      "{p} would open only to those who said \"{v}\".", "{t} {p} whispered the secret word: {v}.");
ITEMS(secret_ask, "What is the secret word of {p}?", "Which secret word did {p} choose?");
ITEMS(secret_indirect, "what the secret word of {p} was", "which secret word {p} had chosen");
ITEMS(secret_recall, "{A} knocked and gave the secret word of {p}: {v}.",
      "The secret word of {p} was still {v}.");
ITEMS(code_state, "The number on the {o} of {p} is {v}.", "{p} cut the number {v} into the {o}.",
      "On the {o} of {p} stood the number {v}.");
ITEMS(code_ask, "What number is on the {o} of {p}?", "Which number did {p} cut into the {o}?");
ITEMS(code_indirect, "which number was on the {o} of {p}", "what number {p} had cut into the {o}");
ITEMS(code_recall, "The {T} read the number on the {o} of {p}: {v}.",
      "The {o} of {p} still bore the number {v}.");
ITEMS(paid_state, "{p} paid {v} for the {o}.", "For the {o} {p} had to pay {v}.",
      "{p} bought the {o} from the {T} for {v}.");
ITEMS(paid_ask, "How much did {p} pay for the {o}?", "What did the {o} cost {p}?");
ITEMS(paid_indirect, "how much {p} paid for the {o}", "what the {o} had cost {p}");
ITEMS(paid_recall, "The {T} still talked of the {o}, for which {p} paid {v}.",
      "{p} complained that the {o} had cost {v}.");
ITEMS(date_state, "The {o} of {p} took place on {v}.", "On {v} came the {o} of {p}.",
      "everybody in {n} was {m} on {v}, the day of the {o} of {p}.");
ITEMS(date_ask, "On what day was the {o} of {p}?", "When did the {o} of {p} take place?");
ITEMS(date_indirect, "on what day the {o} of {p} was", "when the {o} of {p} took place");
ITEMS(date_recall, "People still spoke of the {o} of {p} on {v}.", "The {o} of {p} had been on {v}.");
ITEMS(who_state, "The {o} was {q} by {v}.", "It was {v} who {q} the {o}.", "A stranger, {v}, {q} the {o}.",
      "{t} {v} {q} the {o}.");
ITEMS(who_ask, "Who {q} the {o}?", "By whom was the {o} {q}?");
ITEMS(who_indirect, "who {q} the {o}", "by whom the {o} was {q}");
ITEMS(who_recall, "{A} knew well who {q} the {o}: {v}.", "In {n} they say that the {o} was {q} by {v}.");
ITEMS(gift_state, "{p} gave {q} {v}.", "{t} {q} was given {v} by {p}.", "As a present, {p} sent {q} {v}.",
      "{q} unwrapped the parcel from {p} and found {v}.");
ITEMS(gift_ask, "What did {p} give to {q}?", "Which present did {q} get from {p}?");
ITEMS(gift_indirect, "what {p} gave to {q}", "which present {q} got from {p}");
ITEMS(gift_recall, "{q} was still {m} about the present from {p}, {v}.",
      "{q} never used what {p} gave: {v}.");
ITEMS(boat_state, "The boat of {p} was called {v}.", "{p} had a boat, {v}, which lay by {r}.",
      "{p} named the new boat {v}.");
ITEMS(boat_ask, "What was the boat of {p} called?", "What name did {p} give the boat?");
ITEMS(boat_indirect, "what the boat of {p} was called", "what name {p} gave the boat");
ITEMS(boat_recall, "Past {r} came the boat of {p}, {v}.", "{t} {p} went to sea again in {v}.");

#define FACT(k)                                                                                              \
    {                                                                                                        \
        {k##_state_items, sizeof k##_state_items / sizeof *k##_state_items},                                 \
            {k##_ask_items, sizeof k##_ask_items / sizeof *k##_ask_items},                                   \
            {k##_indirect_items, sizeof k##_indirect_items / sizeof *k##_indirect_items},                    \
        {                                                                                                    \
            k##_recall_items, sizeof k##_recall_items / sizeof *k##_recall_items                             \
        }                                                                                                    \
    }
const struct fact_patterns patterns_fact[] = {FACT(left), FACT(secret), FACT(code), FACT(paid),
                                              FACT(date), FACT(who),    FACT(gift), FACT(boat)};

LIST(patterns_needle, "The secret word for {k} is \"{v}\".", "The magic number for {k} is {v}.",
     "The pass code of {k} is {v}.", "One of the special numbers is this: the number for {k} is {v}.",
     "Remember that the favourite thing of {k} is {v}.", "The key word that belongs to {k} is {v}.");
LIST(patterns_needle_ask, "What is the secret word for {k}?", "What is the magic number for {k}?",
    "What is the pass code of {k}?", "What is the number for {k}?",
    "What is the favourite thing of {k}?", "What is the key word that belongs to {k}?");

/* Compound nouns: any head with any tail, 47 053 words, no two alike. */
LIST(words_compound_head, "air", "apple", "arrow", "barn", "bear", "bell", "birch", "bird", "black",
    "blood", "blue", "boat", "bone", "book", "brass", "bread", "brick", "bridge", "broad", "bull",
    "butter", "candle", "cart", "chalk", "cheese", "chest", "church", "clay", "clock", "cloud",
    "clover", "coal", "copper", "corn", "cotton", "cross", "dawn", "day", "deer", "dew", "door",
    "dove", "dream", "drift", "dust", "eagle", "ear", "earth", "egg", "elder", "elm", "ever", "eye",
    "fair", "farm", "feather", "field", "finger", "fire", "fish", "flag", "flint", "flower", "foot",
    "fox", "frost", "gold", "goose", "grand", "grape", "grass", "green", "hail", "hair", "hand",
    "hard", "hare", "harvest", "hay", "hazel", "heart", "hedge", "hill", "home", "honey", "horse",
    "house", "ice", "iron", "ivy", "jade", "key", "king", "kitchen", "knee", "lake", "lamp", "land",
    "lark", "lead", "leaf", "lily", "lime", "lion", "long", "maple", "market", "marsh", "meadow",
    "milk", "mill", "mind", "moon", "moss", "moth", "mountain", "mouse", "mud", "nail", "night",
    "north", "nut", "oak", "ocean", "oil", "olive", "otter", "ox", "paint", "paper", "path", "pea",
    "pearl", "pepper", "pine", "pipe", "plum", "pond", "poppy", "quick", "rain", "raven", "red",
    "reed", "river", "road", "robin", "rock", "roof", "root", "rope", "rose", "sail", "salmon",
    "salt", "sand", "school", "sea", "seed", "shadow", "sheep", "shell", "ship", "shoe", "silk",
    "silver", "slate", "smoke", "snow", "song", "spring", "squirrel", "star", "steam", "steel",
    "stone", "storm", "straw", "sugar", "summer", "sun", "swan", "swift", "table", "tallow", "tea",
    "thistle", "thorn", "thunder", "tide", "timber", "tin", "toad", "town", "tree", "trout", "turf",
    "turtle", "twig", "under", "vine", "violet", "walnut", "wash", "watch", "water", "wax",
    "weather", "west", "whale", "wheat", "wheel", "white", "wild", "willow", "wind", "wine",
    "winter", "wolf", "wood", "wool", "worm", "yard");
LIST(words_compound_tail, "back", "band", "bank", "bark", "barrel", "basin", "basket", "beam",
    "bed", "bell", "belt", "bench", "berry", "blade", "board", "bolt", "boot", "bottle", "bowl",
    "branch", "breaker", "bridge", "brook", "broom", "brush", "bucket", "builder", "burst", "cabin",
    "call", "cap", "case", "chain", "chair", "chest", "cliff", "cloth", "coat", "corner", "craft",
    "creek", "crown", "cup", "dale", "dance", "dish", "door", "dress", "drop", "drum", "dust",
    "fall", "farm", "feather", "fence", "ferry", "field", "finch", "fire", "fish", "flow", "flower",
    "fly", "fold", "ford", "fork", "fountain", "fruit", "garden", "gate", "glass", "glove", "grain",
    "ground", "grove", "guard", "hall", "hammer", "hand", "hat", "head", "hedge", "helm", "hill",
    "hold", "hollow", "hook", "horn", "house", "keeper", "kettle", "ladder", "lamp", "lane",
    "lantern", "leaf", "ledge", "light", "line", "lock", "loft", "maker", "man", "mark", "market",
    "mask", "master", "mate", "meadow", "mill", "mint", "mirror", "moor", "nest", "net", "nook",
    "pan", "path", "peak", "pen", "pillow", "pin", "pipe", "pit", "plate", "pocket", "pole", "pool",
    "post", "pot", "powder", "press", "print", "quilt", "rack", "ridge", "ring", "rise", "road",
    "robe", "roof", "room", "root", "rope", "saddle", "sail", "seller", "shade", "shed", "shelf",
    "shell", "shirt", "shore", "side", "skin", "smith", "song", "spark", "spear", "spoon", "spring",
    "stack", "staff", "stair", "stalk", "stand", "steam", "stem", "step", "stick", "stool", "storm",
    "stream", "string", "sword", "table", "tail", "thread", "tide", "tile", "top", "tower", "town",
    "track", "trail", "trap", "tray", "tree", "trunk", "tub", "vale", "valley", "vane", "vase",
    "veil", "vessel", "wall", "ware", "watch", "water", "way", "weaver", "wheel", "whistle",
    "window", "wing", "wire", "wood", "word", "work", "yard");
