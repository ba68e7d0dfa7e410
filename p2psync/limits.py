"""Every bound of p2psync. The unit stands last in each name, the reason above it."""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# content ---------------------------------------------------------------------------------------

# The unit of transfer and proof. The fastest point of every measured path: 64 KiB costs four to six
# times the CPU, 16 MiB costs up to twice through page faults.
CHUNK_BYTES: Final = MIB

# Content-defined cutting of files whose format is unknown: average, and bounds a factor of four around it.
CDC_MIN_BYTES: Final = 64 * KIB
CDC_AVG_BYTES: Final = 256 * KIB
CDC_MAX_BYTES: Final = MIB

# A real header of 65,536 tensors is about 8 MiB. A legal header of 92 MB takes seconds to parse.
TENSOR_HEADER_BYTES_MAX: Final = 16 * MIB
TENSORS_PER_FILE_MAX: Final = 65_536
TENSOR_RANK_MAX: Final = 64
TENSOR_NAME_BYTES_MAX: Final = 1024
# Trainers write a few dozen values beside the tensors.
TENSOR_METADATA_MAX: Final = 65_536
# Readers of headers fetch this much at a time; every skipped tensor of an ONNX file costs one such read.
READ_AHEAD_BYTES: Final = 16 * KIB
# The largest tokenisers (440,000 merges, 260,000 tokens) make 12 MiB of GGUF metadata.
GGUF_HEADER_BYTES_MAX: Final = 64 * MIB
GGUF_KEYS_MAX: Final = 65_536
GGUF_KEY_BYTES_MAX: Final = 65_535
# Arrays of arrays are legal and unknown in real files.
GGUF_ARRAY_DEPTH_MAX: Final = 4
GGUF_ARRAYS_MAX: Final = 131_072
GGUF_ALIGNMENT_MAX: Final = MIB
# A skeleton of 20,000 nodes has 500,000 fields; this many take a few seconds.
ONNX_FIELDS_MAX: Final = 4_194_304
# Messages inside messages. The protobuf libraries stop at the same depth.
ONNX_DEPTH_MAX: Final = 100
# Keys that one tensor's external data may have; the format defines five.
ONNX_ENTRIES_MAX: Final = 64

# codec -----------------------------------------------------------------------------------------

# What RFC 8878, section 3.1.1.1.2, recommends that every decoder supports. A chunk needs an eighth of it.
ZSTD_WINDOW_BYTES_MAX: Final = 8 * MIB

# manifest --------------------------------------------------------------------------------------

# One signed statement must fit one packet.
HEAD_BYTES_MAX: Final = KIB
# The largest honest node is the chunk list of one tensor: 262,144 chunks (256 GiB) are 8 MiB.
NODE_BYTES_MAX: Final = 16 * MIB
CHUNKS_PER_BLOB_MAX: Final = 262_144
# 4 TiB of chunks; their table in memory is about 1 GiB.
CHUNKS_PER_VERSION_MAX: Final = 4_194_304
FILES_PER_VERSION_MAX: Final = 65_536
NODES_PER_VERSION_MAX: Final = 1_048_576
MANIFEST_BYTES_MAX: Final = 256 * MIB
FILE_BYTES_MAX: Final = 1 << 46
NODE_DEPTH_MAX: Final = 16
# Values in one node: a root with 65,536 files has 460,000. Read without a bound, 16 MiB of them take a gigabyte.
NODE_ITEMS_MAX: Final = 1_048_576
# One group of blobs in 32 tensors, on average: a changed tensor makes about 3 KB of group and 1 KB of file node new.
GROUP_TENSORS_AVG: Final = 32
# One name in 3,000 would make a longer group.
GROUP_BLOBS_MAX: Final = 256
# The largest mixture-of-experts models have 100,000 tensors.
BLOBS_PER_VERSION_MAX: Final = 1_048_576
DTYPE_CHARS_MAX: Final = 32
# What every language can hold in a signed integer.
INTEGER_MAX: Final = (1 << 63) - 1
VARIANTS_MAX: Final = 64
# Names of variants, backends and precisions.
WORD_CHARS_MAX: Final = 64
BASES_IN_HEAD_MAX: Final = 3
# Rows of encoded chunks in one node, of 40 to 200 bytes each: a tensor that changes makes one node new, not all.
FORM_NODE_ROWS_MAX: Final = 1024
# The full forms, one set of deltas for each base, and the residuals.
FORM_SETS_MAX: Final = 66
# Codes and scales of a quantised tensor; a range of codes may lie in two chunks.
FORM_BASES_MAX: Final = 4
BASES_MAX: Final = 64
PATH_BYTES_MAX: Final = 1024
# NAME_MAX of every Linux file system.
PATH_PART_BYTES_MAX: Final = 255
PATH_PARTS_MAX: Final = 32
NAME_CHARS_MAX: Final = 96
TAG_CHARS_MAX: Final = 64
# Values inside values in a head, unknown ones included.
HEAD_DEPTH_MAX: Final = 8
# A version number must survive JSON in any language.
VERSION_MAX: Final = (1 << 53) - 1
# How long a head stays fresh for the agent when its publisher does not say.
REFRESH_AFTER_DEFAULT_S: Final = 30 * 86_400

# trust -----------------------------------------------------------------------------------------

# Floors of 100,000 tags are 12 MB. More is not our file.
TRUST_FILE_BYTES_MAX: Final = 16 * MIB
KEY_NAME_CHARS_MAX: Final = 64

# store -----------------------------------------------------------------------------------------

# A pull journals at least this often; what was proved since is proved again after a crash.
JOURNAL_BYTES_MAX: Final = 8 * MIB
JOURNAL_INTERVAL_S: Final = 0.25
# Open files kept for serving.
OPEN_FILES_MAX: Final = 256
# Descriptors of a busy node: what the caps on open files and connections add up to, and of them its own: libraries,
# index, journals, listeners. A process that may open fewer takes a share of each cap, and at least the last number.
DESCRIPTORS_BUSY: Final = 1024
DESCRIPTORS_OWN: Final = 32
SHARE_MIN: Final = 4
# `prune` leaves an interrupted pull alone for this long: it is likely to go on.
PARTIAL_KEEP_S: Final = 7 * 86_400
# Chunks that are being encoded at a time, each by a thread of its own: each holds itself, its base and what is made of
# them.
ENCODE_CHUNKS_MAX: Final = 8
# Chunks of a tensor that are tried in a form before it is given up: as noise, or as unrelated to its base.
FORM_TRIES: Final = 4
# A form is kept only where it saves this share of what would be sent without it.
FORM_GAIN_MIN: Final = 0.03
# Encoded chunks that a pull kept are passed on for this long after the last of them came: a version has spread by then.
PART_KEEP_S: Final = 86_400
# More of them than this is not proved again when the home is opened, and goes.
PART_PROVED_BYTES_MAX: Final = GIB
# Packs are closed at this size, which publishing holds in memory once.
PACK_TARGET_BYTES: Final = 32 * MIB
# Room that a pull leaves free beyond what it needs, for the index and for other programs.
FREE_RESERVE_BYTES: Final = 16 * MIB

# transport -------------------------------------------------------------------------------------

CONNECT_TIMEOUT_S: Final = 5.0
# A read may take this long before its first byte, and then as long as its bytes need at the lowest rate.
RESPONSE_TIMEOUT_S: Final = 10.0
# 16 connections on a link of 256 kbit/s still get 2 KiB/s each.
RATE_MIN_BYTES_PER_S: Final = KIB
# The window over which the lowest rate is judged.
RATE_WINDOW_S: Final = 10.0
HTTP_HEAD_BYTES_MAX: Final = 16 * KIB
# Digests in one batch request, and the bytes that one batch may answer.
BATCH_DIGESTS_MAX: Final = 1024
BATCH_BYTES_MAX: Final = 4 * MIB
# Chunks smaller than this travel in batches.
BATCH_CHUNK_BYTES_MAX: Final = 256 * KIB
# Requests kept on one connection ahead of their answers, so that a lane never idles a round trip.
PIPELINE_REQUESTS_MAX: Final = 4
# Adjacent chunks of a pack are asked for in one range of at most this.
RANGE_BYTES_MAX: Final = 4 * MIB
# Ranges of manifest nodes that are read from an origin at once.
NODE_LANES: Final = 8
# Packs of an origin tree.
PACK_BYTES_MIN: Final = 16 * MIB
PACK_BYTES_MAX: Final = 64 * MIB
PACK_INDEX_BYTES_MAX: Final = 256 * MIB
CONNECTIONS_MAX: Final = 512
# A site behind one address has 16 for each version that it brings, and some for heads and nodes.
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
# A client drops a connection that was idle for the first, a server for the second: the client must be the earlier.
IDLE_CLIENT_S: Final = 10.0
IDLE_SERVER_S: Final = 60.0
# The server gives up on a reader slower than this, over a window.
SERVE_RATE_MIN_BYTES_PER_S: Final = KIB
SERVE_TIMEOUT_S: Final = 30.0

# What one address may ask for in vain at once, and each second after that: whoever trusts an inventory of 4 GiB that
# was pruned a moment ago misses 4096 times; 64 a second cost a server 3 % of a core.
MISSES_BURST: Final = 4096
MISSES_PER_S: Final = 64.0
# So many digests of a batch that are not here cost as much work as one request.
MISSES_IN_BATCH: Final = 16
# Whoever asked for more is answered after this, so that its connections bound how often it is told so.
MISS_PAUSE_S: Final = 1.0
# Addresses whose misses are counted; as many as can be connected, twice over.
MISS_ADDRESSES_MAX: Final = 1024

# Bytes of small chunks or nodes that one connection of the server holds in memory at a time.
SERVE_PIECE_BYTES_MAX: Final = 128 * KIB
# Threads that read cold pages ahead of sendfile, so that a cold disk never stalls the event loop.
COLD_READ_THREADS: Final = 4
# One line on the control socket: a request, an event, or a result.
CONTROL_LINE_BYTES_MAX: Final = 4 * MIB
CONTROL_CONNECTIONS_MAX: Final = 32

# finding each other and the site channel ---------------------------------------------------------

# The site's name, a word that people choose.
SITE_ID_BYTES_MAX: Final = 128
# The first message of a site channel: 74 bytes, two names, and room for what later versions say.
HELLO_BYTES_MAX: Final = KIB
# Two round trips and two signatures; a node that takes longer is of no use.
HANDSHAKE_TIMEOUT_S: Final = 5.0
# An inventory of 4,194,304 chunks is 512 KiB.
CHANNEL_MESSAGE_BYTES_MAX: Final = MIB
# What waits for one neighbour. More means that it does not read: 32 of these are what a node may hold in memory.
CHANNEL_QUEUE_MESSAGES_MAX: Final = 1024
CHANNEL_QUEUE_BYTES_MAX: Final = 4 * MIB
# A channel says something at least this often, and is dead after three of these without a word.
KEEPALIVE_S: Final = 10.0
CHANNEL_SILENCE_S: Final = 30.0
# How long the other side of a channel may take to say goodbye.
CHANNEL_CLOSE_TIMEOUT_S: Final = 1.0
# A site has at most 200 nodes.
CHANNELS_MAX: Final = 256
# Of these, such as have not proved who they are: each may hold one message in memory.
HANDSHAKES_MAX: Final = 64
HANDSHAKES_PER_ADDRESS_MAX: Final = 32
# 32 nodes on one machine are a test; more of one address is somebody who makes up keys.
CHANNELS_PER_ADDRESS_MAX: Final = 64
# Text of an announcement; ours has 23 bytes.
ANNOUNCEMENT_BYTES_MAX: Final = 256
# A machine with more addresses than this is found by the first ones.
ANNOUNCED_ADDRESSES_MAX: Final = 8
# Announcements that are remembered, and that are being looked up at once.
ANNOUNCEMENTS_MAX: Final = 512
LOOKUPS_MAX: Final = 32
LOOKUP_TIMEOUT_S: Final = 3.0
# Interfaces that multicast is joined on. The kernel allows 20 memberships of a socket unless it is told otherwise.
INTERFACES_MAX: Final = 16
INTERFACE_CHECK_S: Final = 10.0
# Addresses that a node keeps to dial: of all, of one node, and by one neighbour's word.
PLACES_MAX: Final = 1024
PLACES_PER_NODE_MAX: Final = 8
PLACES_PER_TELLER_MAX: Final = 256
STATIC_PEERS_MAX: Final = 256
# An address that nobody spoke of for this long is forgotten; neighbours tell theirs again three times within it.
PLACE_KEEP_S: Final = 900.0
GOSSIP_INTERVAL_S: Final = 300.0
GOSSIP_ENTRIES_MAX: Final = 256
# Gossip that is read of one neighbour; a site of 200 that starts at once makes 10 KB of it.
GOSSIP_BYTES_BURST: Final = 16 * KIB
GOSSIP_BYTES_PER_S: Final = 1.0 * KIB
DIALS_MAX: Final = 8
# The next address of a node is tried when the one before has not answered for this long.
NEXT_ADDRESS_S: Final = 1.0
# The larger of two ids lets the smaller one dial first: of two dials that cross, one is for nothing.
YIELD_S: Final = 0.2
REDIAL_MIN_S: Final = 1.0
REDIAL_MAX_S: Final = 60.0
# Who answered and is not one of ours (another site, ourselves) is asked again after this.
REDIAL_SETTLED_S: Final = 300.0
BANS_MAX: Final = 1024
# A node that is back where it was this short a time ago, while it is alive elsewhere, is two machines: each of them
# dials again after a second. A laptop that changes networks and changes back takes longer, or is refused for a while.
CLONE_WINDOW_S: Final = 60.0
CLONE_KEEP_S: Final = 300.0
# Events about peers, in a burst and on average: nobody may fill a log from outside.
PEER_EVENTS_BURST: Final = 512
PEER_EVENTS_PER_S: Final = 4.0

# swarm -----------------------------------------------------------------------------------------

# A claim ends when its holder has received nothing new for this long. 1.5 s is too near to a stalled loop on a busy
# machine; three times the 95th percentile of a chunk's time expires live holders on slow links.
CLAIM_LEASE_S: Final = 3.0
# Nodes that fetch together tell each other this often what they claim and how much of it is here.
BEAT_S: Final = 0.5
# Chunks that are newly here are told at once after a quiet time, and else together, at most this much later.
HAVE_DELAY_S: Final = 0.1
# How long a node waits for what its peers hold before it claims its first chunk.
FIRST_CLAIM_WAIT_S: Final = 1.0
# Readers and sources that a node keeps count of one by one; the rest are counted together.
READERS_MAX: Final = 4096
# A neighbour that pulls a version which is unknown here is told what stands here of it anyhow: its manifest is read for
# that, of at most 256 GiB of chunks, one at a time.
HOLDINGS_CHUNKS_MAX: Final = 262_144
# Greetings of one neighbour that are being answered: one for each version that it pulls now.
ANSWERS_PER_NODE_MAX: Final = 64
HOLDINGS_S: Final = 30.0
# A node that has just begun to look for others waits this long before its first claim.
DISCOVERY_WAIT_S: Final = 1.0
# A pull that nobody told where to ask looks for peers at most this long.
DISCOVERY_PATIENCE_S: Final = 3.0
# A node that sent wrong bytes for two chunks is not spoken with again for this long.
BAN_S: Final = 3600.0
# One request outside asks for at most this, so that every connection works on the oldest chunk and little is lost with
# a fetcher; smaller ones pay too many idle round trips (512, 256, 128 KiB: 1.014, 1.005, 0.986 of a lone downloader).
PART_BYTES_MAX: Final = 256 * KIB
PART_BYTES_MIN: Final = 64 * KIB
# Chunks that one claim, and jobs that one beat, may speak of.
CLAIMS_IN_MESSAGE_MAX: Final = 4096
# Chunks that one message may call here, lost or given back. More are told in several messages.
INDEXES_IN_MESSAGE_MAX: Final = 65_536
# Departed sources whose record is kept, so that one that comes back is not believed anew.
RECORDS_KEPT_MAX: Final = 1024
# Requests that one node has out on the LAN in all, and how many candidates are compared for the rarest.
LAN_REQUESTS_MAX: Final = 32
RAREST_WINDOW: Final = 16

# node ------------------------------------------------------------------------------------------

# No proved byte from anywhere for this long ends a pull.
STALL_S: Final = 30.0
# Requests in flight to one peer on the LAN; more gained nothing (1: 0.79, 4: 1.25, 8: 1.13, 16: 1.08).
LAN_LANES: Final = 4
# One cubic connection at 1 % loss and 50 ms gets a tenth of a 20 Mbit/s line; sixteen get 0.94 of it.
WAN_LANES: Final = 16
# An outside link that nobody has measured is priced at 20 Mbit/s, a folder as a USB stick.
OUTSIDE_BYTES_PER_S: Final = 2.5e6
FOLDER_BYTES_PER_S: Final = 100e6
# Rows of one set of forms that a comparison of two versions reads: of 256 GiB of weights, in 120 MB of memory.
DIFF_ROWS_MAX: Final = 1 << 18
# Chunks that are decoded at once; each holds itself, its base and what the decoder makes meanwhile (16 MiB at most).
DECODE_THREADS: Final = 2
# Versions that a pull brings on its way to the one that was asked for, bases of it that are looked at, and how much
# smaller than the version in full a way over another one must be to be worth its disk and its time.
CHAIN_VERSIONS_MAX: Final = 4
CHAIN_BASES_MAX: Final = 8
CHAIN_GAIN_MIN: Final = 0.2
# Encoded chunks that a follower asks one source for at a time.
MIRROR_BYTES_MAX: Final = 4 * MIB
# Buffers of one chunk each that a pull may hold.
PULL_BUFFERS: Final = 48
# One check of `doctor`: a disk that spins up takes longer than any other that works.
CHECK_TIMEOUT_S: Final = 10.0
# Where one of them hung, the next ones are waited for less.
CHECK_AFTER_HANG_S: Final = 1.0
# What a pull of a large model may take, and what a small model needs on the disk: `doctor` warns below them.
MEMORY_LOW_BYTES: Final = 256 * MIB
FREE_LOW_BYTES: Final = GIB

# compress --------------------------------------------------------------------------------------

# What file systems share between files; tensors of whole pages stand on one.
PAGE_BYTES: Final = 4 * KIB
# A recipe is read whole. A long one has a few dozen lines.
RECIPE_BYTES_MAX: Final = 64 * KIB
# Prompts of a recipe, for calibration and for the quality report; each costs a clip of each variant.
RECIPE_PROMPTS_MAX: Final = 1024
# Layers that a refusal names.
WORST_LAYERS: Final = 5

# engine ----------------------------------------------------------------------------------------

# engine.json and probe.json are read whole. A probe with 512 values of each of eight answers is 70 KB.
ENGINE_FILE_BYTES_MAX: Final = MIB
# Values inside values in either of them.
ENGINE_FILE_DEPTH_MAX: Final = 8
PARTS_MAX: Final = 64
# Inputs or outputs of one part: a streaming decoder of the real size has 28.
PART_TENSORS_MAX: Final = 256
TOKENIZER_BYTES_MAX: Final = 64 * MIB
# Longer than any prompt that a text encoder reads whole; tokenizing it takes 10 ms.
PROMPT_CHARS_MAX: Final = 10_000
SEED_MAX: Final = (1 << 32) - 1
STEPS_MAX: Final = 1000
GUIDANCE_MAX: Final = 100.0
SIDE_PX_MAX: Final = 8192
FRAMES_MAX: Final = 4097
# Up to here weights are packed for the kernels when they are loaded: a third faster, for a copy. Others are mapped.
PACKED_WEIGHTS_BYTES_MAX: Final = 256 * MIB
# Of the memory that is available, the part that an engine may plan with.
MEMORY_SHARE: Final = 0.8
# Frames up to this many pixels are decoded in one piece, larger ones in overlapping tiles.
UNTILED_PX_MAX: Final = 512 * 512
TILE_SIDE_PX: Final = 384
TILE_OVERLAP_PX: Final = 64
SHEET_FRAMES_MAX: Final = 16
# The log of generations: beyond this the older half goes.
GENERATIONS_BYTES_MAX: Final = MIB
POINTER_BYTES_MAX: Final = 16 * KIB
# Plans that TensorRT built and that are kept. One of the largest experts is as large as its weights, 28 GB.
PLAN_CACHE_BYTES_MAX: Final = 64 * GIB
# Values of one stage that a golden probe records.
PROBE_VALUES_MAX: Final = 512
# Tokens of its prompt; those of a prompt of 4,096 characters are fewer.
PROBE_TOKENS_MAX: Final = 4096
# Values of a context that its experts read: the widest text encoder of today, and the longest text.
PROBE_CONTEXT_VALUES_MAX: Final = 1 << 21
# Clips that an expert is asked about, each one run: over eight of them INT8 rounding cancels out well enough.
PROBE_CLIPS_MAX: Final = 16
# Forms of one skeleton: there are three.
PROBE_FORMS_MAX: Final = 8
# Means of an expert's answer: one for each channel and place in a patch, 64 in Wan.
PROBE_MEANS_MAX: Final = 4096
# Latents of one stage: twelve times what is recorded at most, 4 MiB of noise, and a clip of 200 MB.
PROBE_LATENT_VALUES_MAX: Final = 1 << 20
# What is recorded at most: answers depend on weights, which are the same at any size, and a node waits for them.
PROBE_SIDE_PX_MAX: Final = 256
PROBE_FRAMES_MAX: Final = 17
# No tolerance above this is read or written: an answer of zeros is 1 off.
PROBE_TOLERANCE_MAX: Final = 0.2
# Backends, or stages of one, for which a probe of format 1 has tolerances.
PROBE_TOLERANCES_MAX: Final = 64
TRAIN_TIMESTEPS_MAX: Final = 1_000_000
# A report names every quantised layer of both experts: 800 of them at Wan's size.
QUALITY_REPORT_BYTES_MAX: Final = MIB
