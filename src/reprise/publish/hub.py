"""Upload a model folder to the Hugging Face Hub; files that are already there are not uploaded again."""

import os
from pathlib import Path

from reprise.errors import UserError

TOKEN = "HF_TOKEN"


def push_folder(folder: Path, name: str, *, private: bool = True) -> str:
    """Create the repository if it does not exist, and upload the folder in one commit.

    The same call resumes an interrupted upload: the Hub recognises files that it has by their hashes.

    Args:
        folder: a model folder with README.md.
        name: `owner/name` of the repository.
        private: whether a new repository is private; an existing one is not changed.

    Returns:
        URL of the commit.

    Raises:
        UserError: there is no token in the environment, the folder has no card, or the Hub refuses the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    token = os.environ.get(TOKEN)
    if not token:
        raise UserError(
            "there is no token for the Hub", where=f"environment variable {TOKEN}",
            remedy="set it to a token with the right to write; it is read from the environment and written nowhere",
        )  # fmt: skip
    if not (folder / "README.md").is_file():
        raise UserError(
            "the folder has no model card (README.md)", where=str(folder), remedy="write it with `reprise export RUN`"
        )
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True, repo_type="model")
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload by reprise push", ignore_patterns=["*.partial"]
        )
    except HFValidationError as error:
        raise UserError(f"{name!r} is no name of a repository: {error}", remedy="write OWNER/NAME") from None
    except (HfHubHTTPError, ValueError, RuntimeError) as error:  # RuntimeError: around the error of one file
        said = " ".join(str(one).splitlines()[0] for one in (error, error.__cause__) if str(one or ""))
        said = said.replace(token, "***")
        raise UserError(
            f"the Hub refuses: {said}", where=name,
            remedy="check the name and the rights of the token; the same command resumes",
        ) from None  # fmt: skip
    except OSError as error:
        raise UserError(
            f"the Hub cannot be reached: {str(error).replace(token, '***')}", where=name,
            remedy="run the same command again: files that were sent are not sent again",
        ) from None  # fmt: skip
    return str(commit.commit_url)
