"""The demo corpus: passages in English and Chinese, written for Reprise, each with its topic (Apache-2.0)."""
