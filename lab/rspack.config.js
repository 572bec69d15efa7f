// Numbers in order and names, not hashes of paths: the same files come out wherever the sources lie.
module.exports = { optimization: { moduleIds: 'natural', chunkIds: 'named' } };
